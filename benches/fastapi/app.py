"""The server with FastAPI for `run.sh`. `server.rs` has the same endpoints, in the same order."""

import asyncio
import time

from fastapi import FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

# With this return type, FastAPI serializes faster than without a type or with a model.
Greeting = dict[str, str]

app = FastAPI()
lock = asyncio.Lock()
# The number of times the lock was acquired.
acquired = 0


def greeting() -> Greeting:
    return {"message": "hello"}


@app.get("/async")
async def plain() -> Greeting:
    return greeting()


# FastAPI runs functions that are not async on a pool of 40 threads.
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
    global acquired
    async with lock:
        acquired += 1
        number = acquired
        await asyncio.sleep(0)
        alone = acquired == number
    if not alone:
        raise HTTPException(500, "two at a time")
    return greeting()


@app.get("/stream")
async def stream():
    return StreamingResponse((f"item {n:03}\n" for n in range(1000)), media_type="text/plain")
