//! [`probes`], the probes of a service host as resources.

use std::future::ready;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::background::{HostHandle, Probe, ProbeAnswer};

/// Returns the resources `/livez`, `/readyz` and `/startupz`, which report the state of a service host: see
/// [the probes](crate::background#probes). They serve GET and HEAD. Pass them to `App::service`, or to a scope, whose
/// prefix then precedes their paths.
///
/// Add the probes to an app that no guard, login or timeout wraps: everything that wraps an `App` applies to them too.
/// A client that can reach the probes can request the names and problems of all services with `?verbose`, so do not
/// expose them to the internet.
///
/// The probes respond only as fast as the server's workers. With the feature `probe-listener`,
/// [`probe_listener`](crate::background::ServiceHostBuilder::probe_listener) responds even while the workers are stuck.
///
/// # Examples
///
/// ```no_run
/// use actix_web::{App, HttpServer, web};
/// use onelane::background::{ServiceHost, service_fn};
/// use onelane::web::actix::probes;
///
/// # #[tokio::main]
/// # async fn main() -> Result<onelane::background::ShutdownReport, Box<dyn std::error::Error>> {
/// let host = ServiceHost::builder()
///     .service(service_fn("refresher", |cx| async move { Ok(cx.stopping().await) }))
///     .build()?;
/// let handle = host.handle();
/// let report = host
///     .run_until(async move {
///         let probed = handle.clone();
///         let app = move || {
///             App::new().service(probes(probed.clone())).route("/", web::get().to(|| async { "hello" }))
///         };
///         let stop = handle.server_may_end();
///         HttpServer::new(app).shutdown_signal(stop).bind("127.0.0.1:3000")?.run().await
///     })
///     .await?;
/// Ok(report) // from `main`: the exit code of the process is that of the report
/// # }
/// ```
#[must_use = "resources do nothing unless they are added to an app"]
pub fn probes(handle: HostHandle) -> impl HttpServiceFactory + 'static {
    Vec::from(Probe::ALL.map(move |probe| resource(probe, handle.clone())))
}

fn resource(probe: Probe, handle: HostHandle) -> impl HttpServiceFactory + 'static {
    let respond = move |request: HttpRequest| ready(response(probe.answer(&handle.status(), request.query_string())));
    let method_not_allowed =
        || ready(HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, "GET,HEAD")).finish());
    web::resource(probe.path())
        .route(web::get().to(respond.clone()))
        .route(web::head().to(respond))
        .default_service(web::to(method_not_allowed))
}

fn response(answer: ProbeAnswer) -> HttpResponse {
    let mut response =
        HttpResponse::build(StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
    for header in ProbeAnswer::HEADERS {
        response.insert_header(*header);
    }
    response.body(answer.into_body())
}
