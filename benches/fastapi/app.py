"""What FastAPI does, for `run.sh`. The peer in `server.rs` has the same endpoints, in the same order."""

import asyncio
import time

from fastapi import FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool

app = FastAPI()
lock = asyncio.Lock()
# How many times it was taken.
turns = 0


def greeting():
    return {"message": "hello"}


@app.get("/async")
async def plain():
    return greeting()


# FastAPI's default: 40 threads for all that is not async.
@app.get("/def")
def on_a_thread():
    return greeting()


@app.get("/def-1ms")
def blocks_a_thread():
    time.sleep(0.001)
    return greeting()


@app.get("/threadpool")
async def part_on_a_thread():
    return await run_in_threadpool(greeting)


@app.get("/lock")
async def one_at_a_time():
    global turns
    async with lock:
        turns += 1
        turn = turns
        await asyncio.sleep(0)
        alone = turns == turn
    if not alone:
        raise HTTPException(500, "two at a time")
    return greeting()
