//! One request at a time across all machines of a cluster, in axum: the guard keeps its lock in Redis or in PostgreSQL.
//!
//! Run it: `cargo run --features cluster --example axum_cluster`, in several terminals with a `PORT` each (default
//! 3000; 0 picks a free port). `DATABASE_URL` is the address of a PostgreSQL server. Without it, `REDIS_URL` (default
//! redis://127.0.0.1) is the address of a Redis server. `HOLD_MS` (default 2000) sets the duration of the handler. Try
//! it with two processes:
//!
//! ```text
//! curl -X POST localhost:3000/limit & curl -X POST localhost:3001/limit; wait  # one after the other, the token grows
//! curl -i localhost:3000/readyz        # 503 while the store does not answer
//! curl -iX POST localhost:3000/limit   # 503 if its lease is lost during the request, for example by the next line:
//! redis-cli FLUSHALL                   # or: psql "$DATABASE_URL" -c 'TRUNCATE onelane_locks'
//! kill -9 PID                          # during a request: the next Hello follows when the lease expires, after 3 s
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the example shows the order of events")]

use std::time::Duration;
use std::{env, process};

use axum::routing::{get, post};
use axum::{Json, Router};
use onelane::backend::{Connect, Lease, LockDomain, Postgres, Redis};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::axum::{GuardLayer, Server, probes};
use onelane::{EndpointGuard, Queue, ServiceHost};
use redis::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_postgres::{Config, NoTls};

static LOCKS: LockDomain = LockDomain::new("shop");
static LIMIT: EndpointGuard = EndpointGuard::builder("limit").queue(Queue::Bounded(32)).distributed(&LOCKS).build();

/// Guarded by its layer, so the handler itself does not mention the guard.
///
/// If the lease is lost, because the store fails or this process was stopped for too long, the layer cancels the
/// handler and responds with 503. A write that is on its way at that time still arrives. Where such a write would do
/// harm, its target compares the tokens, and refuses the write of an earlier holder:
///
/// ```sql
/// UPDATE reports SET total = $1, token = $2 WHERE id = $3 AND token <= $2
/// ```
async fn limit() -> Json<Value> {
    let (process, token) = (process::id(), Lease::current().expect("the layer has acquired the guard").fence());
    println!("Hello from {process}, token {token}");
    let millis = env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000);
    sleep(Duration::from_millis(millis)).await;
    println!("bye from {process}, token {token}");
    Json(json!({ "process": process, "token": token }))
}

/// Printed if the store can't be used.
const HINT: &str = "\
Start a store, for example with one of these lines:
  redis-server --save ''
  docker run --rm -p 5432:5432 -e POSTGRES_PASSWORD=secret postgres  # DATABASE_URL=postgres://postgres:secret@localhost";

/// Connects the domain to its store, as a service.
fn connect() -> Result<Connect, BoxError> {
    // How long other processes wait for one that was killed.
    let lease = Duration::from_secs(3);
    if let Ok(url) = env::var("DATABASE_URL") {
        let config: Config = url.parse()?;
        let postgres = Postgres::new(move || {
            let config = config.clone();
            async move { config.connect(NoTls).await }
        });
        return Ok(LOCKS.connect(postgres.listen().lease(lease)));
    }
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1".into());
    Ok(LOCKS.connect(Redis::new(Client::open(url)?).lease(lease)))
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let host = ServiceHost::builder().service(connect()?).manage(&LIMIT).build()?;
    let app = Router::new()
        .route("/limit", post(limit).layer(GuardLayer::new(&LIMIT)))
        .route("/stats", get(async || Json(LIMIT.stats())))
        .merge(probes(host.handle()));
    let handle = host.handle();
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    // The services start first, so the server listens once the guard is connected.
    let server = async move {
        let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
        println!("listening on http://{}", listener.local_addr()?);
        Server::new(&handle, listener, app).await
    };
    let served = host.run_until(server).await;
    if served.as_ref().is_err_and(|error| error.service().is_some()) {
        eprintln!("{HINT}");
    }
    Ok(served?)
}
