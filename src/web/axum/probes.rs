//! [`probes`], the probes of a service host as routes.

use std::future::ready;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use http::{HeaderValue, StatusCode, Uri};

use crate::background::{HostHandle, Probe, ProbeAnswer};

/// Returns the routes `/livez`, `/readyz` and `/startupz`, which report the state of a service host: see
/// [the probes](crate::background#probes). They serve GET and HEAD.
///
/// Merge the probes after the layers of the app, so that no guard, login or timeout applies to them. A client that can
/// reach the probes can request the names and problems of all services with `?verbose`, so do not expose them to the
/// internet.
///
/// The probes respond only as fast as the server's runtime. With the feature `probe-listener`,
/// [`probe_listener`](crate::background::ServiceHostBuilder::probe_listener) responds even while the runtime is stuck.
///
/// # Panics
///
/// [`Router::merge`] panics if the app already has one of the three routes.
///
/// # Examples
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use onelane::background::{ServiceHost, service_fn};
/// use onelane::web::axum::probes;
/// use tokio::net::TcpListener;
///
/// # #[tokio::main]
/// # async fn main() -> Result<onelane::background::ShutdownReport, Box<dyn std::error::Error>> {
/// let host = ServiceHost::builder()
///     .service(service_fn("refresher", |cx| async move { Ok(cx.stopping().await) }))
///     .build()?;
/// let handle = host.handle();
/// let app = Router::new().route("/", get(|| async { "hello" })).merge(probes(host.handle()));
/// let report = host
///     .run_until(async move {
///         let listener = TcpListener::bind("127.0.0.1:3000").await?;
///         axum::serve(listener, app).with_graceful_shutdown(handle.draining().cancelled_owned()).await
///     })
///     .await?;
/// Ok(report) // from `main`: the exit code of the process is that of the report
/// # }
/// ```
#[must_use = "routes do nothing unless they are merged into a router"]
pub fn probes<S>(handle: HostHandle) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    Probe::ALL
        .into_iter()
        .fold(Router::new(), move |router, probe| router.route(probe.path(), route(probe, handle.clone())))
}

fn route<S>(probe: Probe, handle: HostHandle) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    get(move |uri: Uri| ready(response(probe.answer(&handle.status(), uri.query().unwrap_or_default()))))
}

fn response(answer: ProbeAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = Response::new(Body::from(answer.into_body()));
    *response.status_mut() = status;
    for (name, value) in ProbeAnswer::HEADERS {
        response.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    response
}
