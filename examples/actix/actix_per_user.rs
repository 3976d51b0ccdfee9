//! One request at a time for each user, in actix-web: a user with a request in progress is refused, other users are
//! unaffected.
//!
//! Run it: `cargo run --example actix_per_user`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 300)
//! set the port and how long the handler takes.
//!
//! Try the first three lines in three terminals at once:
//!
//! ```text
//! curl -iX POST 'localhost:3000/work?ms=5000' -H 'x-user: ada'    # done for ada
//! curl -iX POST 'localhost:3000/work?ms=5000' -H 'x-user: ada'    # refused: 429, Retry-After, problem+json
//! curl -iX POST 'localhost:3000/work?ms=5000' -H 'x-user: grace'  # done for grace
//! curl -iX POST localhost:3000/work                               # refused: 400, because the request names no user
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::env;
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::HeaderMap;
use actix_web::rt::time::sleep;
use actix_web::web::{Json, Query, get, post, resource};
use actix_web::{App, HttpRequest};
use onelane::background::{BoxError, ShutdownReport};
use onelane::guard::GuardStats;
use onelane::web::actix::{GuardMiddleware, serve};
use onelane::{KeyedGuard, Queue, ServiceHost};
use serde_json::Value;

/// Only users with a request in progress take memory. `max_keys` protects against clients that invent users.
static PER_USER: KeyedGuard<String> = KeyedGuard::builder("user").queue(Queue::Reject).max_keys(100_000).build();

/// Returns the user that sent the request.
///
/// A real service takes the user from its authentication, such as an extension set by a middleware. If clients can set
/// the header themselves, each of them can use any number of keys, and can block the keys of other users.
fn user(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-user")?.to_str().ok()
}

/// Guarded by its middleware, so the handler itself does not mention the guard.
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
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = || {
        let one_per_user =
            GuardMiddleware::keyed(&PER_USER, |request: &ServiceRequest| user(request.headers()).map(str::to_owned));
        App::new().service(resource("/work").wrap(one_per_user).route(post().to(work))).route("/stats", get().to(stats))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    // Without half-closed connections, a client that closes its connection has disconnected, even while its request
    // waits.
    let server = serve(ServiceHost::default(), move |drain| {
        let server = drain.http_server(app).h1_allow_half_closed(false).bind(format!("127.0.0.1:{port}"))?;
        println!("listening on http://{}", server.addrs()[0]);
        Ok(server)
    });
    Ok(server.await?)
}
