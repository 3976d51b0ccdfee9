//! One guard for async handlers, blocking handlers and plain threads, in actix-web: one at a time, in order of arrival.
//!
//! Run it: `cargo run --example actix_threads`. `PORT` (default 3000, 0 for any) and `HOLD_MS` (default 2000) change where
//! it listens and how long each turn takes.
//!
//! Try it, in three terminals at once, and see that no Hello comes before the bye of the one before:
//!
//! ```text
//! curl -X POST localhost:3000/async
//! curl -X POST localhost:3000/blocking
//! curl -X POST localhost:3000/thread
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "it shows on stdout what happens when")]

use std::time::Duration;
use std::{env, thread};

use actix_web::web::{Json, get, post};
use actix_web::{App, HttpServer};
use onelane::guard::GuardStats;
use onelane::{AcquireError, EndpointGuard};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

static DEVICE: EndpointGuard = EndpointGuard::new("device");

async fn asynchronous() -> Result<&'static str, AcquireError> {
    let _permit = DEVICE.acquire().await?;
    println!("Hello async");
    sleep(hold()).await;
    println!("bye async");
    Ok("done\n")
}

async fn blocking() -> Result<&'static str, AcquireError> {
    spawn_blocking(|| use_device("blocking")).await.expect("it does not panic")
}

async fn plain_thread() -> Result<&'static str, AcquireError> {
    let (done, wait) = oneshot::channel();
    thread::spawn(move || done.send(use_device("thread")));
    wait.await.expect("the thread sends")
}

fn use_device(who: &str) -> Result<&'static str, AcquireError> {
    let _permit = DEVICE.acquire_blocking()?;
    println!("Hello {who}");
    thread::sleep(hold());
    println!("bye {who}");
    Ok("done\n")
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

async fn stats() -> Json<GuardStats> {
    Json(DEVICE.stats())
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let app = || {
        App::new()
            .route("/async", post().to(asynchronous))
            .route("/blocking", post().to(blocking))
            .route("/thread", post().to(plain_thread))
            .route("/stats", get().to(stats))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let server = HttpServer::new(app).bind(format!("127.0.0.1:{port}"))?;
    println!("listening on http://{}", server.addrs()[0]);
    server.run().await
}
