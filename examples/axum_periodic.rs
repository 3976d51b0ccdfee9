//! A closure that is called periodically while the server runs, in axum: calls never overlap, and a failure does not
//! end them.
//!
//! Run it: `cargo run --example axum_periodic`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 2000)
//! set the port and the interval. Try it:
//!
//! ```text
//! curl localhost:3000/              # the calls so far, and when the next one is due
//! curl -X POST localhost:3000/fail  # the next call fails, and the one after it runs on schedule
//! curl -X POST localhost:3000/now   # one more call, outside the schedule
//! ```
//!
//! Ctrl-C ends a wait for the next call at once. A call in progress runs to its end.

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use onelane::background::{
    BoxError, Every, HostHandle, ServiceHost, ServiceResult, ShutdownReport, TickContext, TickStatus, periodic,
};
use onelane::web::axum::Server;
use tokio::net::TcpListener;
use tokio::time::sleep;

static FAIL: AtomicBool = AtomicBool::new(false);

/// Takes longer than the interval, so some calls are skipped.
async fn sweep(cx: TickContext) -> ServiceResult {
    println!("sweep {} begins", cx.number());
    sleep(hold() * 5 / 4).await;
    println!("sweep {} ends", cx.number());
    if FAIL.swap(false, Ordering::Relaxed) { Err("it was asked to fail".into()) } else { Ok(()) }
}

async fn ticks(State(host): State<HostHandle>) -> Json<TickStatus> {
    let ticks = host.status().service("sweep").and_then(|sweep| sweep.ticks());
    Json(ticks.unwrap_or_default())
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let host = ServiceHost::builder().service(periodic("sweep", Every::fixed_rate(hold()), sweep)).build()?;
    let handle = host.handle();
    let app = Router::new()
        .route("/", get(ticks))
        .route("/fail", post(async || Json(FAIL.swap(true, Ordering::Relaxed))))
        .route("/now", post(async |State(host): State<HostHandle>| Json(host.trigger_now("sweep").is_ok())))
        .with_state(handle.clone());
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let server = async move {
        let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
        println!("listening on http://{}", listener.local_addr()?);
        Server::new(&handle, listener, app).await
    };
    Ok(host.run_until(server).await?)
}
