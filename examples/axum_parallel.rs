//! Serial, concurrent and parallel waits, in axum: what blocks the server and what does not.
//!
//! Run it: `cargo run --example axum_parallel`. `PORT` (default 3000; 0 picks a free port) sets the port. `HOLD_MS`
//! (default 2000) scales the waits: a ping takes 2.5 times as long (5 s), `/slow` and `/sync-slow` take twice as long
//! (4 s). The runtime has one thread, like a FastAPI worker.
//!
//! Try each line in two terminals at once. The server prints "Hello" and "Goodbye"; curl prints "pong":
//!
//! ```text
//! curl localhost:3000/ping-blocking      # Hello Goodbye Hello Goodbye: the wait blocks the runtime
//! curl localhost:3000/ping-async         # Hello Hello Goodbye Goodbye: an async wait does not block it
//! curl localhost:3000/ping-run-blocking  # the same, with a blocking wait in run_blocking
//! curl localhost:3000/ping-sync          # the same, with a handler that blocks as a whole: a `def` endpoint
//! curl localhost:3000/ping-process       # the same, in a worker process, which may even crash (Linux)
//! curl localhost:3000/slow               # twice, then localhost:3000/ in a third terminal: that request has to wait
//! curl localhost:3000/sync-slow          # the same, but that request does not wait
//! curl localhost:3000/stats              # running and queued tasks of both pools: run_blocking uses "default"
//! curl -X PUT localhost:3000/limit/2     # from now on 2 handlers at a time; run_blocking keeps its limit of 40
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::sync::LazyLock;
use std::time::Duration;
use std::{env, thread};

use axum::extract::Path;
use axum::routing::{get, put};
use axum::{Json, Router};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::axum::{blocking_handler, serve};
use onelane::web::handler_pool;
use onelane::{BlockingPool, OffloadError, ProcessError, ProcessPool, ServiceHost, run_blocking};
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn ping_async() -> &'static str {
    println!("Hello");
    tokio::time::sleep(hold() * 5 / 2).await;
    println!("Goodbye");
    "pong\n"
}

async fn ping_run_blocking() -> Result<&'static str, OffloadError> {
    println!("Hello");
    run_blocking(|| thread::sleep(hold() * 5 / 2)).await?;
    println!("Goodbye");
    Ok("pong\n")
}

async fn ping_process() -> Result<String, ProcessError> {
    static POOL: LazyLock<ProcessPool> = LazyLock::new(|| ProcessPool::builder("pings").workers(4).build());
    POOL.run(|()| ping_sync().to_owned(), ()).await
}

/// Blocks a thread, so it is not `async`.
fn ping_sync() -> &'static str {
    println!("Hello");
    thread::sleep(hold() * 5 / 2);
    println!("Goodbye");
    "pong\n"
}

fn sync_slow() -> &'static str {
    println!("slow begins");
    thread::sleep(hold() * 2);
    println!("slow ends");
    "slow\n"
}

async fn stats() -> Json<Value> {
    let pools = [handler_pool(), BlockingPool::global()];
    Json(json!({
        "limiter": handler_pool().limiter().stats(),
        "pools": pools.map(BlockingPool::stats),
    }))
}

async fn set_limit(Path(total): Path<usize>) -> Json<Value> {
    handler_pool().limiter().set_total(total);
    stats().await
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/ping-blocking", get(async || ping_sync()))
        .route("/ping-async", get(ping_async))
        .route("/ping-run-blocking", get(ping_run_blocking))
        .route("/ping-sync", get(blocking_handler(ping_sync)))
        .route("/ping-process", get(ping_process))
        .route("/slow", get(async || sync_slow()))
        .route("/sync-slow", get(blocking_handler(sync_slow)))
        .route("/stats", get(stats))
        .route("/limit/{total}", put(set_limit));
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::default(), listener, app).await?)
}
