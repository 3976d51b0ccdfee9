//! The server with onelane for `run.sh`. `app.py` has the same endpoints, in the same order.

#![allow(clippy::print_stdout, reason = "the server prints its address")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::{Listener, ListenerExt};
use axum::{Json, Router};
use onelane::web::axum::blocking_handler;
use onelane::{AcquireError, EndpointGuard, OffloadError, run_blocking, stream_blocking};
use serde_json::{Value, json};
use tokio::net::TcpListener;

static LOCK: EndpointGuard = EndpointGuard::new("lock");
/// The number of times `LOCK` was acquired.
static ACQUIRED: AtomicU32 = AtomicU32::new(0);

fn greeting() -> Json<Value> {
    Json(json!({ "message": "hello" }))
}

async fn plain() -> Json<Value> {
    greeting()
}

/// Runs on the pool for handlers, which has 40 threads, like FastAPI's.
fn on_a_thread() -> Json<Value> {
    greeting()
}

fn blocks_a_thread() -> Json<Value> {
    thread::sleep(Duration::from_millis(1));
    greeting()
}

async fn part_on_a_thread() -> Result<Json<Value>, OffloadError> {
    run_blocking(greeting).await
}

async fn one_at_a_time() -> Result<Result<Json<Value>, StatusCode>, AcquireError> {
    let permit = LOCK.acquire().await?;
    let number = ACQUIRED.fetch_add(1, Ordering::Relaxed) + 1;
    tokio::task::yield_now().await;
    let alone = ACQUIRED.load(Ordering::Relaxed) == number;
    drop(permit);
    Ok(if alone { Ok(greeting()) } else { Err(StatusCode::INTERNAL_SERVER_ERROR) })
}

async fn stream() -> impl IntoResponse {
    let chunks = (0..1000).map(|n| format!("item {n:03}\n"));
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(stream_blocking(chunks)))
}

/// One thread polls tasks, as in a uvicorn worker, because the server has one processor. There, `#[tokio::main]` alone
/// would choose the same.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/async", get(plain))
        .route("/def", get(blocking_handler(on_a_thread)))
        .route("/def-1ms", get(blocking_handler(blocks_a_thread)))
        .route("/threadpool", get(part_on_a_thread))
        .route("/lock", get(one_at_a_time))
        .route("/stream", get(stream));
    // uvloop sets TCP_NODELAY as well.
    let listener = TcpListener::bind("127.0.0.1:0").await?.tap_io(|connection| {
        connection.set_nodelay(true).expect("a new connection accepts options");
    });
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
