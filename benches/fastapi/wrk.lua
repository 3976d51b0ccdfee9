-- Prints the measurements of wrk in one line: requests, microseconds, failures, p50 and p99 in microseconds.
function done(summary, latency, _)
    local errors = summary.errors
    local failures = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    local p50, p99 = latency:percentile(50), latency:percentile(99)
    io.write(string.format("done %d %d %d %d %d\n", summary.requests, summary.duration, failures, p50, p99))
end
