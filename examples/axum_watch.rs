//! Prints which route blocks the only worker, while the worker is blocked, in axum.
//!
//! Run it: `cargo run --example axum_watch`. `PORT` (default 3000; 0 picks a free port) sets the port. `HOLD_MS`
//! (default 2000) scales the waits: `/ping` blocks 2.5 times as long (5 s), `/slow` twice as long (4 s). The runtime has
//! one thread, like a FastAPI worker.
//!
//! Try it. The reports appear on the server's stdout:
//!
//! ```text
//! curl localhost:3000/ping   # in two terminals at once: Hello Goodbye Hello Goodbye, with a report for each
//! curl localhost:3000/slow   # then localhost:3000/ in a second terminal: that request has to wait
//! ```
//!
//! Stop it with Ctrl+C while a route blocks the worker: the route still ends, and its client gets the response.

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::time::Duration;
use std::{env, thread};

use axum::Router;
use axum::routing::get;
use onelane::ServiceHost;
use onelane::background::{BoxError, ShutdownReport};
use onelane::watch::Watch;
use onelane::web::axum::{WatchLayer, serve};
use tokio::net::TcpListener;

/// A mistake: `thread::sleep` in an `async` function blocks the worker.
async fn ping() -> &'static str {
    println!("Hello");
    thread::sleep(hold() * 5 / 2);
    println!("Goodbye");
    "pong\n"
}

async fn slow() -> &'static str {
    thread::sleep(hold() * 2);
    "slow\n"
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<ShutdownReport, BoxError> {
    // Without the callback, the watch only emits `tracing` events.
    let watch = Watch::builder().on_report(|report| println!("{report}")).build()?;
    let host = ServiceHost::builder().watch(&watch).build()?;
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/ping", get(ping))
        .route("/slow", get(slow))
        .layer(WatchLayer::new());
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(host, listener, app).await?)
}
