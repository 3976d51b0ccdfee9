//! The guard as a tower layer: polled by hand, in paused time, and behind a plain hyper server.

mod disconnects;
mod flight;
mod grpc;
mod hyper_server;
mod keyed;
mod permits;
mod readiness;
mod refusals;
mod request_body;
mod response_body;
mod tower_http;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use onelane::EndpointGuard;
use onelane::web::GuardOptions;
use onelane::web::tower::{AnyBody, GuardFuture, GuardLayer, GuardRequestBody};
use tokio_test::task::{Spawn, spawn};
use tower::{Layer, Service, service_fn};

use support::http::Probe;

/// Any body, for requests and responses.
type AnyBytes = UnsyncBoxBody<Bytes, io::Error>;

fn full(bytes: impl Into<Bytes>) -> AnyBytes {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> AnyBytes {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn request() -> Request<AnyBytes> {
    Request::new(empty())
}

/// The request that a service behind the layer receives.
type Received = Request<GuardRequestBody<AnyBytes>>;

fn layer(guard: &Arc<EndpointGuard>) -> GuardLayer {
    GuardLayer::new(guard)
}

fn layer_with(guard: &Arc<EndpointGuard>, options: GuardOptions) -> GuardLayer {
    GuardLayer::new(guard).options(options)
}

/// A service that continues until the test releases it.
fn held(
    probe: &Arc<Probe>,
) -> impl Service<Received, Response = Response<AnyBytes>, Error = Infallible, Future: Send> + Clone + use<> {
    let probe = Arc::clone(probe);
    service_fn(move |_: Received| {
        let probe = Arc::clone(&probe);
        async move {
            probe.visit().await;
            Ok(Response::new(full("done")))
        }
    })
}

/// A service that responds at once with the result of `body`.
fn responding(
    body: impl Fn() -> AnyBytes + Clone + Send + 'static,
) -> impl Service<Received, Response = Response<AnyBytes>, Error = Infallible, Future: Send> + Clone {
    service_fn(move |_: Received| {
        let response = Response::new(body());
        async move { Ok(response) }
    })
}

/// Calls `inner` behind the guard. The call still has to be polled.
fn call<S, B, R>(layer: &GuardLayer, inner: S, request: Request<B>) -> Spawn<GuardFuture<S, AnyBody, B>>
where
    B: Body<Data: Unpin>,
    S: Service<Request<GuardRequestBody<B>>, Response = Response<R>, Future: Send + 'static> + Clone,
    R: Body<Data: From<Bytes>>,
{
    spawn(layer.layer(inner).call(request))
}
