//! [`probes`], the probes of a service host as resources.

use std::future::ready;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::background::{HostHandle, Probe, ProbeAnswer};

/// The resources `/livez`, `/readyz` and `/startupz`, which tell how a service host is: see
/// [what they ask](crate::background#probes). They answer GET and HEAD. `App::service` takes them, and so does a scope, whose
/// prefix then goes before their paths.
///
/// Give them to the app that no guard, login or timeout is wrapped around: what wraps an `App` is before them, too. Whoever
/// reaches them can ask for the names of all services and what is wrong with them: `?verbose` is not for the internet.
///
/// They are as late as the server's workers. With the feature `hyper`,
/// [`probe_listener`](crate::background::ServiceHostBuilder::probe_listener) has them answered also while those are stuck.
///
/// # Examples
///
/// ```no_run
/// use actix_web::{App, HttpServer, web};
/// use onelane::background::{ServiceHost, service_fn};
/// use onelane::web::actix::probes;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = ServiceHost::builder()
///     .service(service_fn("refresher", |cx| async move { Ok(cx.stopping().await) }))
///     .build()?;
/// let handle = host.handle();
/// let report = host
///     .run_until(async move {
///         let probed = handle.clone();
///         let app = move || App::new().service(probes(probed.clone())).route("/", web::get().to(|| async { "hello" }));
///         let draining = handle.draining().cancelled_owned();
///         HttpServer::new(app).shutdown_signal(draining).bind("127.0.0.1:3000")?.run().await
///     })
///     .await?;
/// # drop(report);
/// # Ok(())
/// # }
/// ```
#[must_use = "resources answer only in an app"]
pub fn probes(handle: HostHandle) -> impl HttpServiceFactory + 'static {
    let [live, is_ready, startup] = Probe::ALL;
    (resource(live, handle.clone()), resource(is_ready, handle.clone()), resource(startup, handle))
}

fn resource(probe: Probe, handle: HostHandle) -> impl HttpServiceFactory + 'static {
    let answer = move |request: HttpRequest| ready(response(probe.answer(&handle.status(), request.query_string())));
    let other_method = || ready(HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, "GET,HEAD")).finish());
    web::resource(probe.path())
        .route(web::get().to(answer.clone()))
        .route(web::head().to(answer))
        .default_service(web::to(other_method))
}

fn response(ProbeAnswer { status, body, .. }: ProbeAnswer) -> HttpResponse {
    let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
    for header in ProbeAnswer::HEADERS {
        response.insert_header(header);
    }
    response.body(body)
}
