//! [`GuardLayer`] for axum's body type.

use std::any::Any;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, OriginalUri};
use http::request::Parts;
use http::{Extensions, Request, Uri};

use crate::web::ClientLink;
use crate::web::flight::FlightMark;
use crate::web::tower::{
    AnyBody, BodyKind, FlightLayerFor, GuardLayerFor, HeldBody, ReplayBody, RequestBody, ResponseBody,
};

/// Puts a guard in front of axum routes. This is [`tower::GuardLayer`](crate::web::tower::GuardLayer) for axum's own
/// body type, which it leaves unchanged wherever possible. It costs one allocation per request.
///
/// ```
/// use axum::{Router, routing::post};
/// use onelane::EndpointGuard;
/// use onelane::web::axum::GuardLayer;
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// let app: Router = Router::new()
///     .route("/report", post(|| async { "one request at a time here" }))
///     .layer(GuardLayer::new(&REPORT));
/// ```
pub type GuardLayer = GuardLayerFor<AxumBody>;

/// Shares one response among identical concurrent requests to axum routes: one of them is served, and all get its
/// response.
///
/// ```
/// use axum::{Router, routing::get};
/// use onelane::web::axum::FlightLayer;
///
/// let app: Router = Router::new()
///     .route("/report", get(|| async { "computed once for all requests that arrive meanwhile" }))
///     .layer(FlightLayer::new("report"));
/// ```
pub type FlightLayer = FlightLayerFor<AxumBody>;

/// The body kind for axum.
#[derive(Clone, Copy, Debug)]
pub enum AxumBody {}

impl BodyKind for AxumBody {
    /// axum clones the guarded service for each request, and its services are `Sync`. With the `Arc`, only the clone
    /// that serves the request allocates.
    type Shared<S: Clone> = Arc<S>;

    fn share<S: Clone>(inner: S) -> Arc<S> {
        Arc::new(inner)
    }

    fn service<S: Clone>(shared: &Arc<S>) -> S {
        S::clone(shared)
    }

    /// Nested routers see only a part of the path.
    fn uri(head: &Parts) -> &Uri {
        match head.extensions.get() {
            Some(OriginalUri(uri)) => uri,
            None => &head.uri,
        }
    }

    fn link(extensions: &Extensions) -> Option<ClientLink> {
        link(extensions)
    }

    fn unlink(extensions: &mut Extensions) {
        if let Some(ConnectInfo(link)) = extensions.get_mut::<ConnectInfo<ClientLink>>() {
            link.unlink();
        }
        AnyBody::unlink(extensions);
    }
}

/// Returns the link that axum keeps as connect info, or one that was inserted by hand.
///
/// Returns `None` for a request that leads a run, because that request represents several clients. (The tower layer
/// does not know `ConnectInfo` and leaves it unchanged.)
pub(super) fn link(extensions: &Extensions) -> Option<ClientLink> {
    if extensions.get::<FlightMark>().is_some() {
        return None;
    }
    match extensions.get() {
        Some(ConnectInfo(link)) => Some(link),
        None => extensions.get(),
    }
    .cloned()
}

/// Layers around the guard may change the body, as tower-http's `RequestBodyLimitLayer` does.
impl<B> RequestBody<B> for AxumBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Request = Body;

    #[inline]
    fn untouched(request: Request<B>) -> Request<Body> {
        // `Body::new` returns axum's own body unchanged.
        request.map(Body::new)
    }

    fn replayed(body: ReplayBody<B>) -> Body {
        let mut body = Some(body);
        // axum's own body is passed on unchanged if no part of it was read.
        match (&mut body as &mut dyn Any).downcast_mut().and_then(Option::take) {
            Some(own) => ReplayBody::into_untouched(own).unwrap_or_else(Body::new),
            None => Body::new(body.expect("the body is taken only if the downcast succeeds")),
        }
    }
}

impl<B> ResponseBody<B> for AxumBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Body;

    fn plain(body: B) -> Body {
        Body::new(body)
    }

    fn held(body: HeldBody<B>) -> Body {
        Body::new(body)
    }

    fn whole(body: Bytes) -> Body {
        Body::from(body)
    }
}
