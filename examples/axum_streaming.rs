//! A response streamed from a blocking iterator, in axum: the counterpart of FastAPI's `StreamingResponse` with a
//! generator.
//!
//! Run it: `cargo run --example axum_streaming`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default
//! 2000) set the port and how long each row of `/rows` takes after the first one. The runtime has one thread.
//!
//! Try it in two terminals. The server prints "Hello" when an iterator is created and "Goodbye" when it is dropped:
//!
//! ```text
//! curl -N localhost:3000/rows                         # one row at once, then one every two seconds
//! curl localhost:3000/                                # responds meanwhile
//! curl -N --limit-rate 10K localhost:3000/export      # a slow client of an endless stream: Ctrl-C stops curl
//! curl localhost:3000/stats                           # meanwhile: "running", the threads it occupies, is 0 or 1
//! ```
//!
//! When a client disconnects, its iterator is dropped.

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::time::Duration;
use std::{env, thread};

use axum::body::Body;
use axum::routing::get;
use axum::{Json, Router};
use onelane::background::{BoxError, ShutdownReport};
use onelane::offload::{OffloadError, PoolStats, stream_blocking};
use onelane::web::axum::serve;
use onelane::{BlockingPool, ServiceHost};
use tokio::net::TcpListener;

/// The rows of a query, from a database driver that blocks.
struct Rows {
    next: u32,
    count: u32,
    each_takes: Duration,
}

impl Rows {
    fn new(count: u32, each_takes: Duration) -> Self {
        println!("Hello");
        Self { next: 1, count, each_takes }
    }
}

impl Iterator for Rows {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.next > self.count {
            return None;
        }
        if self.next > 1 {
            thread::sleep(self.each_takes);
        }
        let row = format!("row {}\n", self.next);
        self.next += 1;
        Some(row)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        println!("Goodbye");
    }
}

async fn rows() -> Result<Body, OffloadError> {
    body_of(Rows::new(5, hold())).await
}

async fn export() -> Result<Body, OffloadError> {
    body_of(Rows::new(u32::MAX, Duration::ZERO)).await
}

/// Responds with 503 or 500 if the stream fails before its first row, for example because no thread is available. A
/// later failure ends the body early.
async fn body_of(rows: Rows) -> Result<Body, OffloadError> {
    Ok(Body::from_stream(stream_blocking(rows).started().await?))
}

async fn stats() -> Json<PoolStats> {
    Json(BlockingPool::global().stats())
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/rows", get(rows))
        .route("/export", get(export))
        .route("/stats", get(stats));
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::default(), listener, app).await?)
}
