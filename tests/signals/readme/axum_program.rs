use std::time::Duration;

use axum::routing::{get, post};
use axum::{Router, extract::Path};
use onelane::background::{BoxError, RunContext, ServiceResult, ShutdownReport, service_fn};
use onelane::web::BackgroundTasks;
use onelane::web::axum::{GuardLayer, blocking_handler, probes, serve};
use onelane::{EndpointGuard, Queue, ServiceHost};
use tokio::net::TcpListener;

/// One report at a time. Up to 32 requests wait; the next one gets a 503.
static REPORT: EndpointGuard = EndpointGuard::builder("report").queue(Queue::Bounded(32)).build();

async fn report() -> &'static str {
    super::report_work().await; // a query; it is finished even if the client disconnects
    "only one request at a time runs this"
}

/// Runs on a thread that may block. All blocking handlers together run 40 requests at a time; 400 more wait.
fn user(Path(id): Path<u64>) -> String {
    std::thread::sleep(super::query()); // a database driver that blocks
    format!("user {id}")
}

/// The client has its answer before the mail is sent. The mail is sent even if the client disconnects.
async fn sign_up(tasks: BackgroundTasks) -> &'static str {
    match tasks.add("mail", async { /* send it */ }) {
        Ok(()) => "welcome",
        Err(_full) => "welcome, without a mail",
    }
}

/// Starts before the first request and stops after the last one. It is restarted after a failure or a panic.
async fn refresh(cx: RunContext) -> ServiceResult {
    while cx.sleep(Duration::from_secs(60)).await {
        // refresh a cache; `sleep` returns `false` when the host stops
    }
    Ok(())
}

#[tokio::main]
pub(super) async fn main() -> Result<ShutdownReport, BoxError> {
    let host = ServiceHost::builder()
        .drain_timeout(super::drain())
        .service(service_fn("refresh", refresh))
        .manage(&REPORT)
        .exit_within(Duration::from_secs(2)) // even if a handler still blocks its thread
        .build()?;
    let app = Router::new()
        .route("/report", post(report).layer(GuardLayer::new(&REPORT)))
        .route("/users/{id}", get(blocking_handler(user)))
        .route("/sign-up", post(sign_up))
        .merge(probes(host.handle())); // /livez, /readyz, /startupz
    let listener = TcpListener::bind(super::address()).await?;
    // SIGTERM or Ctrl-C: the server responds to all requests that have arrived, then background tasks and handlers that
    // continue without their clients finish, each for 10 s at most (`drain_timeout`), then the services stop in reverse
    // order. The exit code is 0 if all of that ended cleanly and in time, 130 or 143 if a second signal forced the end,
    // and 1 otherwise.
    Ok(serve(host, listener, app).await?)
}
