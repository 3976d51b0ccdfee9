//! One request at a time, in axum: for a whole handler, for a part of one, for none, and with refusal instead of
//! waiting.
//!
//! Run it: `cargo run --example axum_limit`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 2000)
//! set the port and the duration of each wait in a handler.
//!
//! Try each line in two terminals at once:
//!
//! ```text
//! curl -X POST localhost:3000/limit          # Hello bye Hello bye: the second request waits for the first
//! curl -X POST localhost:3000/limit-section  # the same, but only from Hello to bye
//! curl -X POST localhost:3000/nolimit        # Hello Hello bye bye
//! curl -iX POST localhost:3000/exclusive     # the second request is refused: 503, Retry-After, problem+json
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::axum::{GuardLayer, serve};
use onelane::{AcquireError, EndpointGuard, Queue, ServiceHost};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

static LIMIT: EndpointGuard = EndpointGuard::builder("limit").queue(Queue::Bounded(32)).build();
static SECTION: EndpointGuard = EndpointGuard::new("limit-section");
static EXCLUSIVE: EndpointGuard = EndpointGuard::builder("exclusive").queue(Queue::Reject).build();

/// Guarded by its layer, so the handler itself does not mention the guard.
async fn limit() -> Json<Value> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    hello_and_bye(&COUNTER).await;
    hold().await;
    response(&COUNTER)
}

async fn limit_section() -> Result<Json<Value>, AcquireError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    SECTION.run(hello_and_bye(&COUNTER)).await?;
    hold().await;
    Ok(response(&COUNTER))
}

async fn nolimit() -> Json<Value> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    hello_and_bye(&COUNTER).await;
    hold().await;
    response(&COUNTER)
}

async fn exclusive() -> Json<Value> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    hello_and_bye(&COUNTER).await;
    response(&COUNTER)
}

async fn stats() -> Json<Value> {
    Json(json!([LIMIT.stats(), SECTION.stats(), EXCLUSIVE.stats()]))
}

async fn hello_and_bye(counter: &AtomicU64) {
    println!("Hello");
    counter.fetch_add(1, Ordering::Relaxed);
    hold().await;
    println!("bye");
}

async fn hold() {
    let millis = env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000);
    sleep(Duration::from_millis(millis)).await;
}

fn response(counter: &AtomicU64) -> Json<Value> {
    Json(json!({ "counter": counter.load(Ordering::Relaxed) }))
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = Router::new()
        .route("/limit", post(limit).layer(GuardLayer::new(&LIMIT)))
        .route("/limit-section", post(limit_section))
        .route("/nolimit", post(nolimit))
        .route("/exclusive", post(exclusive).layer(GuardLayer::new(&EXCLUSIVE)))
        .route("/stats", get(stats));

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    // With a watched listener, a waiting request leaves the queue when its client disconnects, even behind unread
    // bytes.
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::default(), listener, app).await?)
}
