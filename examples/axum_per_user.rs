//! One request at a time for each user, in axum: a user who asks for more is told to come back later, others are
//! unaffected.
//!
//! Run it: `cargo run --example axum_per_user`. `PORT` (default 3000, 0 for any) and `HOLD_MS` (default 2000) change where
//! it listens and how long its handler takes.
//!
//! Try it, the first three in terminals of their own at once:
//!
//! ```text
//! curl -iX POST localhost:3000/work -H 'x-user: ada'    # done for ada
//! curl -iX POST localhost:3000/work -H 'x-user: ada'    # refused: 429, Retry-After, problem+json
//! curl -iX POST localhost:3000/work -H 'x-user: grace'  # done for grace
//! curl -iX POST localhost:3000/work                     # 400: for whom?
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "it shows on stdout what happens when")]

use std::env;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Json, Router};
use onelane::guard::GuardStats;
use onelane::web::ClientLink;
use onelane::web::axum::{GuardLayer, WatchedListener};
use onelane::{KeyedGuard, Queue};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// As many keys at once as there are requests at most; the limit is for clients that make up users.
static PER_USER: KeyedGuard<String> = KeyedGuard::builder("user").queue(Queue::Reject).max_keys(100_000).build();

/// Whose request it is.
///
/// A real service takes this from its authentication, such as an extension that a middleware has set. A header that
/// anybody can set gives everybody as many lanes as they like, and lets them into the lanes of others.
fn user(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-user")?.to_str().ok()
}

/// The layer guards it, so it needs no word about it.
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
async fn main() -> std::io::Result<()> {
    let one_per_user = GuardLayer::keyed(&PER_USER, |head: &Parts| user(&head.headers).map(str::to_owned));
    let app = Router::new().route("/work", post(work).layer(one_per_user)).route("/stats", get(stats));

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = WatchedListener::from(TcpListener::bind(format!("127.0.0.1:{port}")).await?);
    println!("listening on http://{}", axum::serve::Listener::local_addr(&listener)?);
    axum::serve(listener, app.into_make_service_with_connect_info::<ClientLink>()).await
}
