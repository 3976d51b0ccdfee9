"""Round trips and throughput of Python's process pools, for comparison with `cargo bench -p onelane-benches-process`.

python3 -m venv /tmp/peers && /tmp/peers/bin/pip install pebble anyio && /tmp/peers/bin/python benches/process/peers.py
"""

import asyncio
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import anyio.to_process
import pebble


def next_number(n):
    return n + 1


def report(name, seconds):
    micros = sorted(s * 1e6 for s in seconds)
    print(f"{name:32} {statistics.median(micros):10.1f} µs p50  {micros[len(micros) * 99 // 100]:10.1f} µs p99", flush=True)


def timed(call, count=2_000):
    for n in range(20):
        assert call(n) == n + 1
    seconds = []
    for n in range(count):
        start = time.perf_counter()
        assert call(n) == n + 1
        seconds.append(time.perf_counter() - start)
    return seconds


def throughput(name, submit, count=20_000, in_flight=64):
    pending, done = [], 0
    start = time.perf_counter()
    for n in range(count):
        pending.append(submit(n))
        if len(pending) == in_flight:
            done += pending.pop(0).result() > 0
    done += sum(future.result() > 0 for future in pending)
    assert done == count
    print(f"{name:32} {(time.perf_counter() - start) / count * 1e6:10.1f} µs per task, 64 in flight", flush=True)


async def anyio_round_trips():
    for n in range(20):
        await anyio.to_process.run_sync(next_number, n)
    seconds = []
    for n in range(2_000):
        start = time.perf_counter()
        assert await anyio.to_process.run_sync(next_number, n) == n + 1
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        report("ProcessPoolExecutor", timed(lambda n: pool.submit(next_number, n).result()))
        throughput("ProcessPoolExecutor", lambda n: pool.submit(next_number, n))
    with pebble.ProcessPool(2) as pool:
        report("pebble", timed(lambda n: pool.schedule(next_number, args=[n]).result()))
        throughput("pebble", lambda n: pool.schedule(next_number, args=[n]))
    report("anyio.to_process", asyncio.run(anyio_round_trips()))
