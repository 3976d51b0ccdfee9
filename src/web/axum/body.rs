//! [`GuardLayer`] for axum's body type.

use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use http::{Extensions, Request};

use crate::web::ClientLink;
use crate::web::tower::{BodyKind, GuardLayerFor, HeldBody, Replay, RequestBody, ResponseBody};

/// Puts a guard in front of axum routes: [`tower::GuardLayer`](crate::web::tower::GuardLayer) for axum's own body type, which it leaves as it is
/// wherever it can. One allocation a request.
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

/// The body kind for axum.
#[derive(Clone, Copy, Debug)]
pub enum AxumBody {}

impl BodyKind for AxumBody {
    const CALLED_ONCE: bool = true;

    fn link(extensions: &Extensions) -> Option<ClientLink> {
        link(extensions)
    }
}

/// The link that axum keeps as connect info, or one that was inserted by hand.
pub(super) fn link(extensions: &Extensions) -> Option<ClientLink> {
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

    fn replayed(body: Replay<Body>) -> Body {
        match body.untouched() {
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

    fn refusal(body: Bytes) -> Body {
        Body::from(body)
    }
}
