//! [`GuardLayer`] for axum's body type.

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
    const CALLED_ONCE: bool = true;

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
/// A request that leads a run has none: it stands for several clients. (The layer for any service does not know connect
/// info, and leaves it as it is.)
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

impl RequestBody<Body> for AxumBody {
    type Request = Body;

    fn untouched(request: Request<Body>) -> Request<Body> {
        request
    }

    fn replayed(body: ReplayBody<Body>) -> Body {
        match body.into_untouched() {
            Ok(body) => body,
            Err(read_ahead) => Body::new(read_ahead),
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
