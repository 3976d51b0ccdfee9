//! Serial, concurrent and parallel waits, in actix-web: what blocks the server and what does not.
//!
//! Run it: `cargo run --example actix_parallel`. `PORT` (default 3000; 0 picks a free port) sets the port. `HOLD_MS`
//! (default 2000) scales the waits: a ping takes 2.5 times as long (5 s), `/slow` and `/sync-slow` take twice as long
//! (4 s). The server has one worker. With several workers, a blocking wait delays only the connections of its own
//! worker.
//!
//! Try each line in two terminals at once. The server prints "Hello" and "Goodbye"; curl prints "pong":
//!
//! ```text
//! curl localhost:3000/ping-blocking      # Hello Goodbye Hello Goodbye: the wait blocks the worker
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

use actix_web::App;
use actix_web::web::{Json, Path, get, put};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::actix::{blocking_handler, serve};
use onelane::web::handler_pool;
use onelane::{BlockingPool, OffloadError, ProcessError, ProcessPool, ServiceHost, run_blocking};
use serde_json::{Value, json};

async fn ping_async() -> &'static str {
    println!("Hello");
    actix_web::rt::time::sleep(hold() * 5 / 2).await;
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

async fn set_limit(total: Path<usize>) -> Json<Value> {
    handler_pool().limiter().set_total(*total);
    stats().await
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[actix_web::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = || {
        App::new()
            .route("/", get().to(async || "hello\n"))
            .route("/ping-blocking", get().to(async || ping_sync()))
            .route("/ping-async", get().to(ping_async))
            .route("/ping-run-blocking", get().to(ping_run_blocking))
            .route("/ping-sync", get().to(blocking_handler(ping_sync)))
            .route("/ping-process", get().to(ping_process))
            .route("/slow", get().to(async || sync_slow()))
            .route("/sync-slow", get().to(blocking_handler(sync_slow)))
            .route("/stats", get().to(stats))
            .route("/limit/{total}", put().to(set_limit))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    // By default, a request that waits five seconds for a blocked worker gets status 408.
    let server = serve(ServiceHost::default(), move |drain| {
        let server = drain
            .http_server(app)
            .workers(1)
            .client_request_timeout(Duration::from_secs(60))
            .h1_allow_half_closed(false)
            .bind(format!("127.0.0.1:{port}"))?;
        println!("listening on http://{}", server.addrs()[0]);
        Ok(server)
    });
    Ok(server.await?)
}
