"""Prints tables of the measurements of `run.sh`: `table.py RESULTS TICKS_A_SECOND`."""

import sys
from collections import defaultdict
from statistics import median

SERVERS = ("fastapi", "onelane")


class Run:
    def __init__(self, requests, micros, p50, p99, ticks, ticks_a_second):
        self.rate = requests / micros * 1e6
        self.p50 = p50 / 1e3
        self.p99 = p99 / 1e3
        self.cpu = ticks / ticks_a_second / requests * 1e6
        self.busy = ticks / ticks_a_second / micros * 1e6


def read(path, ticks_a_second):
    """Returns the runs by endpoint and server, in the order of the rounds."""
    runs = defaultdict(lambda: defaultdict(list))
    with open(path) as lines:
        for line in lines:
            server, endpoint, *numbers = line.split()
            runs[endpoint][server].append(Run(*map(int, numbers), ticks_a_second))
    return runs


def digits(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}".removesuffix(".")


def percent(number):
    return f"{number:.0%}"


def quotients(dividends, divisors):
    return [dividend / divisor for dividend, divisor in zip(dividends, divisors, strict=True)]


def differences(minuends, subtrahends):
    return [minuend - subtrahend for minuend, subtrahend in zip(minuends, subtrahends, strict=True)]


def compare(fastapi, onelane, show=digits):
    """Returns three cells: the median of each server, and the median of the ratios of each round."""
    return [show(median(fastapi)), show(median(onelane)), digits(median(quotients(onelane, fastapi)))]


def print_table(heads, rows):
    for cells in [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]:
        print("|", " | ".join(cells), "|")
    print()


def print_tables(runs):
    def values(endpoint, figure):
        return [[getattr(run, figure) for run in runs[endpoint][server]] for server in SERVERS]

    rates, latencies, relative_to_async = [], [], []
    for endpoint in runs:
        fastapi, onelane = values(endpoint, "rate")
        rounds = quotients(onelane, fastapi)
        spread = f"{digits(min(rounds))} to {digits(max(rounds))}"
        busy = [percent(median(of_server)) for of_server in values(endpoint, "busy")]
        rates.append([f"`{endpoint}`", *compare(fastapi, onelane), spread, *compare(*values(endpoint, "cpu")), *busy])
        latencies.append([f"`{endpoint}`", *compare(*values(endpoint, "p50")), *compare(*values(endpoint, "p99"))])
        if endpoint != "/async":
            rate = map(quotients, values(endpoint, "rate"), values("/async", "rate"))
            cpu = map(differences, values(endpoint, "cpu"), values("/async", "cpu"))
            relative_to_async.append([f"`{endpoint}`", *compare(*rate), *compare(*cpu)])

    print("Medians of the rounds, and of the ratios of each round. A ratio is onelane divided by FastAPI.")
    print("Busy is the share of its processor that a server used: well below 100 %, something else was the limit.\n")
    print_table(["", "requests a second: FastAPI", "onelane", "ratio", "lowest to highest",
                 "processor µs a request: FastAPI", "onelane", "ratio", "busy: FastAPI", "onelane"], rates)
    print_table(["", "p50 ms: FastAPI", "onelane", "ratio", "p99 ms: FastAPI", "onelane", "ratio"], latencies)
    print_table(["relative to `/async`", "requests a second, divided by its: FastAPI", "onelane", "ratio",
                 "processor µs a request, beyond its: FastAPI", "onelane", "ratio"], relative_to_async)


print_tables(read(sys.argv[1], int(sys.argv[2])))
