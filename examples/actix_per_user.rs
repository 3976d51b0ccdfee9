//! One request at a time for each user, in actix-web: a user who asks for more is told to come back later, others are
//! unaffected.
//!
//! Run it: `cargo run --example actix_per_user`. `PORT` (default 3000, 0 for any) and `HOLD_MS` (default 300) change
//! where it listens and how long its handler takes.
//!
//! Try it, the first three in terminals of their own at once:
//!
//! ```text
//! curl -iX POST 'localhost:3000/work?ms=5000' -H 'x-user: ada'    # done for ada
//! curl -iX POST 'localhost:3000/work?ms=5000' -H 'x-user: ada'    # refused: 429, Retry-After, problem+json
//! curl -iX POST 'localhost:3000/work?ms=5000' -H 'x-user: grace'  # done for grace
//! curl -iX POST localhost:3000/work                               # 400: for whom?
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "it shows on stdout what happens when")]

use std::env;
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::HeaderMap;
use actix_web::rt::time::sleep;
use actix_web::web::{Json, Query, get, post, resource};
use actix_web::{App, HttpRequest, HttpServer};
use onelane::guard::GuardStats;
use onelane::web::actix::GuardMiddleware;
use onelane::{KeyedGuard, Queue};
use serde_json::Value;

/// Only users with a request here take memory; `max_keys` is for clients that make up users.
static PER_USER: KeyedGuard<String> = KeyedGuard::builder("user").queue(Queue::Reject).max_keys(100_000).build();

/// Whose request it is.
///
/// A real service takes this from its authentication, such as an extension that a middleware has set. A header that
/// anybody can set gives everybody as many lanes as they like, and lets them into the lanes of others.
fn user(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-user")?.to_str().ok()
}

/// The middleware guards it, so it needs no word about it.
async fn work(request: HttpRequest, query: Query<Value>) -> String {
    let user = user(request.headers()).expect("the middleware refuses requests without a user");
    println!("Hello {user}");
    let asked = query["ms"].as_str().and_then(|millis| millis.parse().ok());
    sleep(asked.map_or_else(hold, Duration::from_millis)).await;
    println!("bye {user}");
    format!("done for {user}")
}

fn hold() -> Duration {
    let millis = env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(300);
    Duration::from_millis(millis)
}

async fn stats() -> Json<GuardStats> {
    Json(PER_USER.stats())
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let app = || {
        let one_per_user =
            GuardMiddleware::keyed(&PER_USER, |request: &ServiceRequest| user(request.headers()).map(str::to_owned));
        App::new().service(resource("/work").wrap(one_per_user).route(post().to(work))).route("/stats", get().to(stats))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    // Not half closed: a client that closes its connection is gone, also while its request waits.
    let server = HttpServer::new(app).h1_allow_half_closed(false).bind(format!("127.0.0.1:{port}"))?;
    println!("listening on http://{}", server.addrs()[0]);
    server.run().await
}
