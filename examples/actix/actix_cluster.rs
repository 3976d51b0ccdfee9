//! One request at a time across several processes, in actix-web: all processes of a host, or all machines of a cluster.
//!
//! Run it on Linux: `cargo run --features cluster --example actix_cluster`, in several terminals. `DATABASE_URL` is the
//! address of a PostgreSQL server, and `REDIS_URL` is the address of a Redis server. Without both, the locks are in a
//! directory of this host. `PORT` (default 3000; 0 picks a free port) may be the same for all processes. `HOLD_MS`
//! (default 2000) sets how long the handler takes. Try it:
//!
//! ```text
//! for i in 1 2 3 4; do curl -X POST localhost:3000/limit & done; wait  # one after the other, the token grows
//! kill -9 PID  # the process that printed the last Hello, before its bye: the next Hello follows at once or after 3 s
//! kill PID     # any of the processes: it responds to its pending requests, and ends
//! curl -i localhost:3000/readyz  # 503 while the store does not answer
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the example shows the order of events")]

use std::fs::DirBuilder;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;
use std::{env, io, process};

use actix_web::App;
use actix_web::rt::time::sleep;
use actix_web::web::{Json, get, post, resource};
use onelane::backend::{Connect, Host, Lease, LockDomain, Postgres, Redis};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::actix::{GuardMiddleware, probes, serve};
use onelane::{EndpointGuard, Queue, ServiceHost};
use redis::Client;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio_postgres::{Config, NoTls};

static LOCKS: LockDomain = LockDomain::new("shop");
static LIMIT: EndpointGuard = EndpointGuard::builder("limit").queue(Queue::Bounded(32)).distributed(&LOCKS).build();

/// Guarded by its middleware, so the handler itself does not mention the guard.
async fn limit() -> Json<Value> {
    let (process, token) = (process::id(), Lease::current().expect("the middleware has acquired the guard").fence());
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
    // How long other processes wait for one that was killed. A directory needs no lease.
    let lease = Duration::from_secs(3);
    if let Ok(url) = env::var("DATABASE_URL") {
        let config: Config = url.parse()?;
        let postgres = Postgres::new(move || {
            let config = config.clone();
            async move { config.connect(NoTls).await }
        });
        return Ok(LOCKS.connect(postgres.listen().lease(lease)));
    }
    if let Ok(url) = env::var("REDIS_URL") {
        return Ok(LOCKS.connect(Redis::new(Client::open(url)?).lease(lease)));
    }
    let directory = env::temp_dir().join("onelane-locks");
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    Ok(LOCKS.connect(Host::new(directory)))
}

/// Several processes may listen on the port. The kernel distributes the connections among them.
fn shared_port(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.set_reuseaddr(true)?; // as other servers do, to start again at once
    socket.bind(([127, 0, 0, 1], port).into())?;
    socket.listen(1024)?.into_std()
}

#[actix_web::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let host = ServiceHost::builder().service(connect()?).manage(&LIMIT).build()?;
    let handle = host.handle();
    let app = move || {
        App::new()
            .service(resource("/limit").wrap(GuardMiddleware::new(&LIMIT)).route(post().to(limit)))
            .route("/stats", get().to(async || Json(LIMIT.stats())))
            .service(probes(handle.clone()))
    };
    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    // The services start first, so the server listens once the guard is connected.
    let server = serve(host, move |drain| {
        let server = drain.http_server(app).h1_allow_half_closed(false).listen(shared_port(port)?)?;
        println!("listening on http://{}", server.addrs()[0]);
        Ok(server)
    });
    let served = server.await;
    if served.as_ref().is_err_and(|error| error.service().is_some()) {
        eprintln!("{HINT}");
    }
    Ok(served?)
}
