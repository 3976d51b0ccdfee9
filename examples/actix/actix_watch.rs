//! Prints which route blocks the only worker, while the worker is blocked, in actix-web.
//!
//! Run it: `cargo run --example actix_watch`. `PORT` (default 3000; 0 picks a free port) sets the port. `HOLD_MS`
//! (default 2000) scales the waits: `/ping` blocks 2.5 times as long (5 s), `/slow` twice as long (4 s). The server has
//! one worker, like a FastAPI process.
//!
//! Try it. The reports appear on the server's stdout:
//!
//! ```text
//! curl localhost:3000/ping   # in two terminals at once: Hello Goodbye Hello Goodbye, with a report for each
//! curl localhost:3000/slow   # then localhost:3000/ in a second terminal: that request has to wait
//! ```
//!
//! Stop it with Ctrl+C while a route blocks the worker: the route still ends, and its client gets the response.

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::time::Duration;
use std::{env, thread};

use actix_web::App;
use actix_web::web::get;
use onelane::ServiceHost;
use onelane::background::{BoxError, ShutdownReport};
use onelane::watch::Watch;
use onelane::web::actix::{WatchMiddleware, serve};

/// A mistake: `thread::sleep` in an `async` function blocks the worker.
async fn ping() -> &'static str {
    println!("Hello");
    thread::sleep(hold() * 5 / 2);
    println!("Goodbye");
    "pong\n"
}

async fn slow() -> &'static str {
    thread::sleep(hold() * 2);
    "slow\n"
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[actix_web::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    // Without the callback, the watch only emits `tracing` events.
    let watch = Watch::builder().on_report(|report| println!("{report}")).build()?;
    let host = ServiceHost::builder().watch(&watch).build()?;
    let app = || {
        App::new()
            .wrap(WatchMiddleware::new())
            .route("/", get().to(async || "hello\n"))
            .route("/ping", get().to(ping))
            .route("/slow", get().to(slow))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let server = serve(host, move |drain| {
        let server = drain.http_server(app).workers(1).bind(format!("127.0.0.1:{port}"))?;
        println!("listening on http://{}", server.addrs()[0]);
        Ok(server)
    });
    Ok(server.await?)
}
