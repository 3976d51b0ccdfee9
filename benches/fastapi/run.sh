#!/usr/bin/env bash
# Compares FastAPI (`app.py`) and onelane (`server.rs`), with the same endpoints under the same load:
# `bash benches/fastapi/run.sh`, from any folder, on Linux with Python, Rust and two processors. Prints tables of ratios, and
# fails if a response is wrong.
#
# One server runs at a time, in one process on one processor, with one thread for async code. The load comes from another
# processor. FastAPI is installed from PyPI and removed at the end. wrk is installed from Debian's packages and kept.
#
#   ROUNDS=3         number of rounds for each median
#   DURATION=5       duration of each load, in seconds; longer where a slow machine answers too few requests in that time
#   SERVER_CPU=0     processor of the servers; default: the first one
#   LOAD_CPU=1       processor of wrk; default: the last one
#   VENV=folder      uses the virtual environment in this folder, creates it if it is missing, and keeps it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

rounds=${ROUNDS:-3}
duration=${DURATION:-5}
temporary=$(mktemp -d)
venv=${VENV:-$temporary/venv}
results=$temporary/results
log=$temporary/log
# The processes that run in the background.
server='' job=''

# Endpoint and number of connections. FastAPI needs long for a stream: with more connections, too few streams would end.
endpoints=(/async:64 /def:64 /def-1ms:200 /threadpool:64 /lock:64 /stream:8)

fail() {
    echo "$*" >&2
    exit 1
}

stop_server() {
    [ -n "$server" ] || return 0
    # The server has no work to finish.
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=''
}

clean_up() {
    if [ -n "$job" ]; then
        kill "$job" 2>/dev/null || true
        wait "$job" 2>/dev/null || true
    fi
    stop_server
    rm -rf "$temporary"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command to its end or until a signal arrives. For a command in the foreground, bash would delay the signal.
run() {
    local status=0
    "$@" &
    job=$!
    wait "$job" || status=$?
    job=''
    return "$status"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

install_missing() {
    local tool
    for tool in cargo curl python3 taskset; do
        command -v "$tool" >/dev/null || fail "$tool is missing"
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || fail 'Python cannot create virtual environments: install python3-venv'
    if ! command -v wrk >/dev/null; then
        command -v apt-get >/dev/null || fail 'wrk is missing, and apt-get is not available to install it'
        run as_root apt-get update -q >&2
        run as_root apt-get install -y -q wrk >&2
    fi
    # A complete environment from an earlier run is reused.
    if ! "$venv/bin/python" -c 'import fastapi, uvicorn, uvloop, httptools' 2>/dev/null; then
        run python3 -m venv "$venv"
        run "$venv/bin/pip" install --quiet --disable-pip-version-check fastapi 'uvicorn[standard]'
    fi
}

choose_processors() {
    local processors
    read -ra processors < <(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0)))')
    server_cpu=${SERVER_CPU:-${processors[0]}}
    load_cpu=${LOAD_CPU:-${processors[-1]}}
    [ "$server_cpu" != "$load_cpu" ] || fail 'the servers and the load need separate processors'
}

build_peer() {
    run cargo build --release --locked --example fastapi_peer
    local target
    target=$(cargo metadata --locked --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    peer=$target/release/examples/fastapi_peer
}

# Starts a server on a free port, and sets `url`.
start_server() {
    # Otherwise the address of the previous server would be found in the log.
    : >"$log"
    case $1 in
    fastapi)
        PYTHONDONTWRITEBYTECODE=1 taskset -c "$server_cpu" "$venv/bin/python" -m uvicorn app:app --port 0 --workers 1 \
            --loop uvloop --http httptools --no-access-log >"$log" 2>&1 &
        ;;
    onelane) taskset -c "$server_cpu" "$peer" >"$log" 2>&1 & ;;
    esac
    server=$!
    local _
    # A minute: Python takes long to start on a slow machine.
    for _ in {1..1200}; do
        url=$(grep -om1 'http://127.0.0.1:[0-9]*' "$log") && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    cat "$log" >&2
    fail "$1 did not start"
}

# Prints the expected response of an endpoint, including the chunks of a stream.
expected() {
    if [ "$1" = /stream ]; then
        printf '9\r\nitem %03d\n\r\n' $(seq 0 999)
        printf '0\r\n\r\n200 text/plain; charset=utf-8'
    else
        printf '{"message":"hello"}200 application/json'
    fi
}

check_answer() {
    expected "$2" >"$temporary/expected"
    curl -sS --raw --max-time 60 -w '%{http_code} %{content_type}' "$url$2" >"$temporary/answer" || true
    if ! cmp "$temporary/expected" "$temporary/answer"; then
        head -c 300 "$temporary/answer" >&2
        printf '\n' >&2
        cat "$log" >&2
        fail "$1 sent a wrong response to $2"
    fi
}

server_ticks() {
    awk '{ print $14 + $15 }' "/proc/$server/stat"
}

# Loads an endpoint of the running server for some seconds, and sets the variables printed by `wrk.lua`. A slow machine may
# answer no request in that time.
load() {
    run taskset -c "$load_cpu" wrk --threads 1 --connections "$3" --duration "$4s" --timeout 60s --script wrk.lua "$url$2" \
        >"$temporary/wrk" || true
    read -r _ requests time failures p50 p99 < <(grep '^done ' "$temporary/wrk" || echo done 0 0 all 0 0)
    if [ "$failures" != 0 ]; then
        cat "$temporary/wrk" "$log" >&2
        fail "$1 answered $requests requests to $2, failures: $failures"
    fi
}

# Loads an endpoint until each connection has got a response, on average, and sets also `ticks`, what the load took of the
# processor. Each attempt is twice as long as the one before.
load_until_answered() {
    local seconds=$4
    while true; do
        ticks=$(server_ticks)
        load "$1" "$2" "$3" "$seconds"
        ticks=$(($(server_ticks) - ticks))
        if [ "$requests" -ge "$3" ] || { [ "$requests" -gt 0 ] && [ "$seconds" -ge 60 ]; }; then return; fi
        [ "$seconds" -lt 600 ] || fail "$1 answered no request to $2 in $seconds s"
        echo "$1 answered $requests requests to $2 in $seconds s: trying longer" >&2
        seconds=$((seconds * 2))
    done
}

# Appends a line of results: server, endpoint, requests, microseconds, p50, p99, CPU ticks.
measure() {
    local name=$1 endpoint=${2%:*} connections=${2#*:} ticks requests time failures p50 p99
    start_server "$name"
    check_answer "$name" "$endpoint"
    load "$name" "$endpoint" "$connections" 1
    load_until_answered "$name" "$endpoint" "$connections" "$duration"
    check_answer "$name" "$endpoint"
    stop_server
    echo "$name $endpoint $requests $time $p50 $p99 $ticks" >>"$results"
    echo "round $round: $name $endpoint $((requests * 1000000 / time)) requests a second" >&2
}

print_versions() {
    local package model
    model=$(lscpu | sed -n 's/^Model name: *//p' | head -n 1)
    echo "machine: ${model:-unknown}, $(nproc) processors, Linux $(uname -r)"
    printf '%s' "$("$venv/bin/python" --version)"
    for package in fastapi starlette uvicorn uvloop httptools anyio pydantic; do
        printf ', %s %s' "$package" "$("$venv/bin/python" -c "import importlib.metadata as m; print(m.version('$package'))")"
    done
    printf '\n%s' "$(rustc --version | cut -d ' ' -f 1-2)"
    for package in onelane axum hyper tokio; do
        printf ', %s %s' "$package" "$(awk -v name="\"$package\"" '$3 == name { getline; gsub("\"", ""); print $3 }' ../../Cargo.lock)"
    done
    printf '\nload: wrk %s, %s rounds of %s s\n\n' "$({ wrk -v || true; } | sed -n 's/^wrk \([^ ]*\).*/\1/p')" "$rounds" "$duration"
}

install_missing
choose_processors
build_peer

for name in fastapi onelane; do
    start_server "$name"
    for endpoint in "${endpoints[@]}"; do
        check_answer "$name" "${endpoint%:*}"
    done
    stop_server
done

for ((round = 1; round <= rounds; round++)); do
    # Alternates the order in each round, so that neither server benefits from its position.
    if ((round % 2)); then names=(fastapi onelane); else names=(onelane fastapi); fi
    for endpoint in "${endpoints[@]}"; do
        for name in "${names[@]}"; do
            measure "$name" "$endpoint"
        done
    done
done

print_versions
python3 table.py "$results" "$(getconf CLK_TCK)"
