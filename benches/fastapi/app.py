"""What FastAPI does, for `run.sh`. The peer in `server.rs` has the same endpoints, in the same order."""

import asyncio
import time

from fastapi import FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

# With a type it writes JSON faster than without, and faster than of a model.
Greeting = dict[str, str]

app = FastAPI()
lock = asyncio.Lock()
# How many times it was taken.
turns = 0


def greeting() -> Greeting:
    return {"message": "hello"}


@app.get("/async")
async def plain() -> Greeting:
    return greeting()


# FastAPI's default: 40 threads for all that is not async.
@app.get("/def")
def on_a_thread() -> Greeting:
    return greeting()


@app.get("/def-1ms")
def blocks_a_thread() -> Greeting:
    time.sleep(0.001)
    return greeting()


@app.get("/threadpool")
async def part_on_a_thread() -> Greeting:
    return await run_in_threadpool(greeting)


@app.get("/lock")
async def one_at_a_time() -> Greeting:
    global turns
    async with lock:
        turns += 1
        turn = turns
        await asyncio.sleep(0)
        alone = turns == turn
    if not alone:
        raise HTTPException(500, "two at a time")
    return greeting()


@app.get("/stream")
async def stream():
    return StreamingResponse((f"item {n:03}\n" for n in range(1000)), media_type="text/plain")
