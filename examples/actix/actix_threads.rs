//! One guard shared by async handlers, blocking code and plain threads, in actix-web: one at a time, in order of
//! arrival.
//!
//! Run it: `cargo run --example actix_threads`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 2000)
//! set the port and how long each caller holds its permit.
//!
//! Try the first three lines in three terminals at once. Each "Hello" follows the "bye" of the caller before it:
//!
//! ```text
//! curl -X POST localhost:3000/async
//! curl -X POST localhost:3000/blocking
//! curl -X POST localhost:3000/thread
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::time::Duration;
use std::{env, thread};

use actix_web::App;
use actix_web::web::{Json, get, post};
use onelane::background::{BoxError, ShutdownReport};
use onelane::guard::GuardStats;
use onelane::web::actix::serve;
use onelane::{AcquireError, EndpointGuard, ServiceHost};
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
    spawn_blocking(|| use_device("blocking")).await.expect("the closure does not panic")
}

async fn plain_thread() -> Result<&'static str, AcquireError> {
    let (done, wait) = oneshot::channel();
    thread::spawn(move || done.send(use_device("thread")));
    wait.await.expect("the thread sends")
}

fn use_device(caller: &str) -> Result<&'static str, AcquireError> {
    let _permit = DEVICE.acquire_blocking()?;
    println!("Hello {caller}");
    thread::sleep(hold());
    println!("bye {caller}");
    Ok("done\n")
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

async fn stats() -> Json<GuardStats> {
    Json(DEVICE.stats())
}

#[actix_web::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = || {
        App::new()
            .route("/async", post().to(asynchronous))
            .route("/blocking", post().to(blocking))
            .route("/thread", post().to(plain_thread))
            .route("/stats", get().to(stats))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let server = serve(ServiceHost::default(), move |drain| {
        let server = drain.http_server(app).bind(format!("127.0.0.1:{port}"))?;
        println!("listening on http://{}", server.addrs()[0]);
        Ok(server)
    });
    Ok(server.await?)
}
