//! One request at a time for each user, in axum: a user with a request in progress is refused, other users are
//! unaffected.
//!
//! Run it: `cargo run --example axum_per_user`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 2000)
//! set the port and how long the handler takes.
//!
//! Try the first three lines in three terminals at once:
//!
//! ```text
//! curl -iX POST localhost:3000/work -H 'x-user: ada'    # done for ada
//! curl -iX POST localhost:3000/work -H 'x-user: ada'    # refused: 429, Retry-After, problem+json
//! curl -iX POST localhost:3000/work -H 'x-user: grace'  # done for grace
//! curl -iX POST localhost:3000/work                     # refused: 400, because the request names no user
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::env;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Json, Router};
use onelane::background::{BoxError, ShutdownReport};
use onelane::guard::GuardStats;
use onelane::web::axum::{GuardLayer, serve};
use onelane::{KeyedGuard, Queue, ServiceHost};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Only users with a request in progress take memory. `max_keys` protects against clients that invent users.
static PER_USER: KeyedGuard<String> = KeyedGuard::builder("user").queue(Queue::Reject).max_keys(100_000).build();

/// Returns the user that sent the request.
///
/// A real service takes the user from its authentication, such as an extension set by a middleware. If clients can set
/// the header themselves, each of them can use any number of keys, and can block the keys of other users.
fn user(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-user")?.to_str().ok()
}

/// Guarded by its layer, so the handler itself does not mention the guard.
async fn work(headers: HeaderMap) -> String {
    let user = user(&headers).expect("the layer refuses requests without a user");
    println!("Hello {user}");
    let millis = env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000);
    sleep(Duration::from_millis(millis)).await;
    println!("bye {user}");
    format!("done for {user}")
}

async fn stats() -> Json<GuardStats> {
    Json(PER_USER.stats())
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let one_per_user = GuardLayer::keyed(&PER_USER, |head: &Parts| user(&head.headers).map(str::to_owned));
    let app = Router::new().route("/work", post(work).layer(one_per_user)).route("/stats", get(stats));

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::default(), listener, app).await?)
}
