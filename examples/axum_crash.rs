//! Routes that crash, loop forever and take all memory, in the worker processes of a `ProcessPool`, in axum.
//!
//! Run it: `cargo run --example axum_crash`, on Linux. `PORT` (default 3000; 0 picks a free port) sets the port.
//! `HOLD_MS` (default 2000) sets the time limit of a request.
//!
//! ```text
//! curl localhost:3000/segfault  # 500: the worker crashed, as it would with a bug in a C library
//! curl localhost:3000/loop      # 504 after two seconds: the worker was killed; Ctrl+C in curl kills it at once
//! curl localhost:3000/allocate  # 500: the worker reached its memory limit
//! curl localhost:3000/panic     # 500: the worker continues
//! curl localhost:3000/          # hello, even while the other requests run
//! curl localhost:3000/stats     # the numbers of workers that exist, died, and were killed
//! ```
//!
//! The server prints why a request failed. The client learns only that the request failed.

#![allow(clippy::print_stdout, reason = "the example shows what happens on stdout")]

use std::time::Duration;
use std::{env, hint};

use axum::routing::get;
use axum::{Json, Router};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::axum::{process_handler, serve};
use onelane::web::{Refusal, RefusalReason, RequestHead};
use onelane::{ProcessPool, ServiceHost};
use tokio::net::TcpListener;

#[allow(unsafe_code, reason = "the crash is real")]
fn segfault((): ()) -> String {
    // SAFETY: There is none. No memory is mapped at this address.
    let byte = unsafe { std::ptr::without_provenance::<u8>(64).read_volatile() };
    format!("the byte is {byte}\n")
}

fn endless((): ()) -> String {
    loop {
        hint::spin_loop();
    }
}

fn allocate((): ()) -> String {
    let mut blocks = Vec::new();
    loop {
        blocks.push(vec![1_u8; 16 << 20]);
        hint::black_box(&blocks);
    }
}

fn panics((): ()) -> String {
    panic!("a picture without pixels")
}

/// Prints the reason of a failure. The response to the client is unchanged.
fn print(refusal: Refusal, _: &RequestHead<'_>) -> Refusal {
    if let RefusalReason::Process(error) = refusal.reason() {
        println!("{error}");
    }
    refusal
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<ShutdownReport, BoxError> {
    let limit = env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000);
    let pool = ProcessPool::builder("crashes")
        .workers(4)
        .max_queued(100)
        .timeout(Duration::from_millis(limit))
        .memory_limit(256 << 20)
        .build();
    let stats = pool.clone();
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/segfault", get(process_handler(&pool, segfault).on_refusal(print)))
        .route("/loop", get(process_handler(&pool, endless).on_refusal(print)))
        .route("/allocate", get(process_handler(&pool, allocate).on_refusal(print)))
        .route("/panic", get(process_handler(&pool, panics).on_refusal(print)))
        .route("/stats", get(async move || Json(stats.stats())));
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::builder().manage(pool).build()?, listener, app).await?)
}
