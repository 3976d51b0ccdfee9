//! One request at a time, in actix-web: for a whole handler, for a part of one, for none, and with refusal instead of
//! waiting.
//!
//! Run it: `cargo run --example actix_limit`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 2000)
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

use actix_web::App;
use actix_web::rt::time::sleep;
use actix_web::web::{Json, get, post, resource};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::actix::{GuardMiddleware, serve};
use onelane::{AcquireError, EndpointGuard, Queue, ServiceHost};
use serde_json::{Value, json};

static LIMIT: EndpointGuard = EndpointGuard::builder("limit").queue(Queue::Bounded(32)).build();
static SECTION: EndpointGuard = EndpointGuard::new("limit-section");
static EXCLUSIVE: EndpointGuard = EndpointGuard::builder("exclusive").queue(Queue::Reject).build();

/// Guarded by its middleware, so the handler itself does not mention the guard.
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

#[actix_web::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = || {
        App::new()
            .service(resource("/limit").wrap(GuardMiddleware::new(&LIMIT)).route(post().to(limit)))
            .route("/limit-section", post().to(limit_section))
            .route("/nolimit", post().to(nolimit))
            .service(resource("/exclusive").wrap(GuardMiddleware::new(&EXCLUSIVE)).route(post().to(exclusive)))
            .route("/stats", get().to(stats))
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
