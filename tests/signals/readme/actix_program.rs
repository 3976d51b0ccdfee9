use std::time::Duration;

use actix_web::App;
use actix_web::web::{Path, get, post, resource};
use onelane::background::{BoxError, RunContext, ServiceResult, ShutdownReport, service_fn};
use onelane::web::BackgroundTasks;
use onelane::web::actix::{GuardMiddleware, blocking_handler, probes, serve};
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
            .route("/sign-up", post().to(sign_up))
            .service(probes(handle.clone())) // /livez, /readyz, /startupz
    };
    // On SIGTERM or Ctrl-C, what happens is as above.
    Ok(serve(host, move |drain| drain.http_server(app).bind(super::address())).await?)
}
