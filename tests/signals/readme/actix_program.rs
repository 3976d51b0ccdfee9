use std::time::Duration;

use actix_web::web::{Path, get, post, resource};
use actix_web::{App, HttpServer};
use onelane::background::{BoxError, RunContext, ServiceResult, ShutdownReport, service_fn};
use onelane::web::actix::{GuardMiddleware, blocking_handler, probes};
use onelane::{EndpointGuard, Queue, ServiceHost};

/// One report at a time. Up to 32 requests wait; the next one gets a 503.
static REPORT: EndpointGuard = EndpointGuard::builder("report").queue(Queue::Bounded(32)).build();

async fn report() -> &'static str {
    super::report_work().await; // a query; it is finished even if the client disconnects
    "only one request at a time runs this"
}

/// Runs on a thread that may block. All blocking handlers together run 40 requests at a time; 400 more wait.
fn user(id: Path<u64>) -> String {
    std::thread::sleep(super::query()); // a database driver that blocks
    format!("user {id}")
}

/// Starts before the first request and stops after the last one. It is restarted after a failure or a panic.
async fn refresh(cx: RunContext) -> ServiceResult {
    while cx.sleep(Duration::from_secs(60)).await {
        // refresh a cache; `sleep` returns `false` when the host stops
    }
    Ok(())
}

#[actix_web::main]
pub(super) async fn main() -> Result<ShutdownReport, BoxError> {
    let host = ServiceHost::builder()
        .drain_timeout(super::drain())
        .service(service_fn("refresh", refresh))
        .manage(&REPORT)
        .exit_within(Duration::from_secs(2)) // even if a handler still blocks its thread
        .build()?;
    let handle = host.handle();
    let app = move || {
        App::new()
            .service(resource("/report").wrap(GuardMiddleware::new(&REPORT)).route(post().to(report)))
            .route("/users/{id}", get().to(blocking_handler(user)))
            .service(probes(handle.clone())) // /livez, /readyz, /startupz
    };
    // The handlers run on the server's own threads and end with them. So the server stops once the handlers that
    // continue without their clients have finished, and not as soon as SIGTERM or Ctrl-C arrives. The rest is as above.
    let server = HttpServer::new(app).shutdown_signal(host.handle().server_may_end());
    let server = async move { server.bind(super::address())?.run().await };
    Ok(host.run_until(server).await?)
}
