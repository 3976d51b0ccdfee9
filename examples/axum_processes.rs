//! One request at a time across several processes of a host, in axum. The processes share a port and the locks in a
//! directory, without a server for locks.
//!
//! Run it on Linux: `cargo run --features host --example axum_processes`. It starts `WORKERS` (default 4) processes,
//! and replaces each one that ends. With `WORKERS=1` it serves requests itself: start it like this in several
//! terminals. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 2000) set the port and how long the
//! handler takes. Try it:
//!
//! ```text
//! for i in 1 2 3 4; do curl -X POST localhost:3000/limit & done; wait  # one after the other, in several processes
//! kill -9 PID  # the process that printed the last Hello, before its bye: the next Hello follows at once
//! kill PID     # any of the processes: it responds to its pending requests, and ends
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;
use std::{env, io, process};

use axum::routing::{get, post};
use axum::{Json, Router};
use futures::FutureExt;
use onelane::backend::{Host, Lease, LockDomain};
use onelane::background::{BoxError, RunContext, ServiceResult, ShutdownReport, service_fn};
use onelane::web::axum::{GuardLayer, Server};
use onelane::{EndpointGuard, Queue, ServiceHost};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::process::Command;
use tokio::time::sleep;

static LOCKS: LockDomain = LockDomain::new("shop");
static LIMIT: EndpointGuard = EndpointGuard::builder("limit").queue(Queue::Bounded(32)).distributed(&LOCKS).build();

/// Guarded by its layer, so the handler itself does not mention the guard.
async fn limit() -> Json<Value> {
    let (process, token) = (process::id(), Lease::current().expect("the layer has acquired the guard").fence());
    println!("Hello from {process}, token {token}");
    let millis = env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000);
    sleep(Duration::from_millis(millis)).await;
    println!("bye from {process}, token {token}");
    Json(json!({ "process": process, "token": token }))
}

async fn serve(port: u16) -> Result<ShutdownReport, BoxError> {
    let directory = env::temp_dir().join("onelane-locks");
    // A service of systemd gets such a directory from `RuntimeDirectory=`.
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let host = ServiceHost::builder().service(LOCKS.connect(Host::new(directory))).manage(&LIMIT).build()?;
    let app = Router::new()
        .route("/limit", post(limit).layer(GuardLayer::new(&LIMIT)))
        .route("/stats", get(async || Json(LIMIT.stats())));
    let handle = host.handle();
    let server = async move {
        let listener = shared_port(port)?.listen(1024)?;
        println!("{} listening on http://{}", process::id(), listener.local_addr()?);
        Server::new(&handle, listener, app).await
    };
    Ok(host.run_until(server).await?)
}

/// Several processes may listen on the port. The kernel distributes the connections among them.
fn shared_port(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.set_reuseaddr(true)?; // as other servers do, to start again at once
    socket.bind(([127, 0, 0, 1], port).into())?;
    Ok(socket)
}

/// Runs a process that serves. If the process ends before this service is asked to stop, the host starts another one.
async fn worker(cx: RunContext, port: u16) -> ServiceResult {
    let mut command = Command::new(env::current_exe()?);
    // In a process group of its own, the process gets no Ctrl-C from the terminal, but only the signal below.
    let mut worker = command.env("WORKERS", "1").env("PORT", port.to_string()).process_group(0).spawn()?;
    tokio::select! {
        status = worker.wait() => return Err(format!("the process has ended: {}", status?).into()),
        () = cx.stopping() => {}
    }
    if let Some(pid) = worker.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        kill_process(pid, Signal::TERM)?;
    }
    worker.wait().await?.success().then_some(()).ok_or("the process has failed".into())
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let workers = env::var("WORKERS").map_or(Ok(4), |workers| workers.parse())?;
    if workers == 1 {
        return serve(port).await;
    }
    // Reserves the port. A socket that does not listen gets no connections.
    let reserved = shared_port(port)?;
    let port = reserved.local_addr()?.port();
    let mut host = ServiceHost::builder();
    for number in 1..=workers {
        let worker = service_fn(&format!("worker {number}"), move |cx| worker(cx, port));
        host = host.service(worker.stop_timeout(Duration::from_secs(15)));
    }
    let host = host.build()?;
    let stopping = host.handle().draining().cancelled_owned();
    Ok(host.run_until(stopping.map(Ok::<_, BoxError>)).await?)
}
