//! [`probes`], the probes of a service host as routes.

use std::future::ready;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use http::{HeaderValue, StatusCode, Uri};

use crate::background::{HostHandle, Probe, ProbeAnswer};

/// The routes `/livez`, `/readyz` and `/startupz`, which tell how a service host is: see
/// [what they ask](crate::background#probes). They answer GET and HEAD.
///
/// Merge them behind the layers of the app, so that no guard, login or timeout stands before them. Whoever reaches them can
/// ask for the names of all services and what is wrong with them: `?verbose` is not for the internet.
///
/// They are as late as the server's runtime. With the feature `hyper`,
/// [`probe_listener`](crate::background::ServiceHostBuilder::probe_listener) has them answered also while that is stuck.
///
/// # Panics
///
/// [`Router::merge`] panics if the app has one of the three routes already.
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
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
/// # drop(report);
/// # Ok(())
/// # }
/// ```
#[must_use = "routes answer only in a router"]
pub fn probes<S>(handle: HostHandle) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let [live, is_ready, startup] = Probe::ALL;
    Router::new()
        .route(live.path(), route(live, handle.clone()))
        .route(is_ready.path(), route(is_ready, handle.clone()))
        .route(startup.path(), route(startup, handle))
}

fn route<S>(probe: Probe, handle: HostHandle) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    get(move |uri: Uri| ready(response(probe.answer(&handle.status(), uri.query().unwrap_or_default()))))
}

fn response(ProbeAnswer { status, body, .. }: ProbeAnswer) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in ProbeAnswer::HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
