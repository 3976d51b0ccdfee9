//! The guard in axum, over real sockets.
//!
//! Real time passes in these tests, a few milliseconds each, because the kernel delivers packets at its own pace. The
//! tests wait for the expected event rather than for a time.

mod connect_info;
mod disconnect_while_running;
mod disconnect_while_waiting;
mod flight;
mod handlers;
pub(crate) mod http2;
mod keyed;
mod listener;
mod nested;
mod one_at_a_time;
mod own_errors;
mod refusals;
mod request_body;
mod response_body;
mod shutdown;
mod tower_http;

use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use onelane::EndpointGuard;
use onelane::web::axum::GuardLayer;

use support::http::Probe;

/// A guarded route `/` whose handler continues until the test releases it.
fn held_route(guard: &Arc<EndpointGuard>, probe: &Arc<Probe>) -> Router {
    let probe = Arc::clone(probe);
    let handler = move || async move {
        probe.visit().await;
        "done"
    };
    Router::new().route("/", any(handler)).layer(GuardLayer::new(guard))
}
