//! A background service, in axum: it starts before the server and stops after the last request.
//!
//! Run it: `cargo run --example hello_service`, or on another port: `PORT=3001 cargo run --example hello_service`. Try
//! it:
//!
//! ```text
//! curl localhost:3000/  # how often the service has run its loop; Ctrl-C in the server's terminal stops both
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, time::Duration};

use axum::{Router, routing::get};
use onelane::background::{BoxError, RunContext, ServiceHost, ServiceResult, ShutdownReport, service_fn};
use onelane::web::axum::serve;
use tokio::net::TcpListener;

static LOOPS: AtomicU64 = AtomicU64::new(0);

async fn count(cx: RunContext) -> ServiceResult {
    while cx.sleep(Duration::from_millis(100)).await {
        LOOPS.fetch_add(1, Ordering::Relaxed);
    }
    println!("service stopped");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let host = ServiceHost::builder().service(service_fn("count", count)).build()?;
    let app = Router::new().route("/", get(async || format!("{}\n", LOOPS.load(Ordering::Relaxed))));
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(host, listener, app).await?)
}
