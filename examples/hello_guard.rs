//! A guard on a route, in axum: one request at a time, in order of arrival.
//!
//! Run it: `cargo run --example hello_guard`, or on another port: `PORT=3001 cargo run --example hello_guard`. Try it:
//!
//! ```text
//! curl -X POST localhost:3000/report & curl -X POST localhost:3000/report; wait  # one second, then another one
//! ```

#![allow(clippy::print_stdout, reason = "the example prints its address on stdout")]

use std::{env, time::Duration};

use axum::{Router, routing::post};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::axum::serve;
use onelane::{EndpointGuard, ServiceHost, web::axum::GuardLayer};
use tokio::net::TcpListener;

static REPORT: EndpointGuard = EndpointGuard::new("report");

async fn report() -> &'static str {
    tokio::time::sleep(Duration::from_secs(1)).await;
    "done\n"
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = Router::new().route("/report", post(report).layer(GuardLayer::new(&REPORT)));
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::default(), listener, app).await?)
}
