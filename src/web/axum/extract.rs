//! [`Guarded`] as an extractor.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::body::link;
use crate::web::request_guard::{PermitRequest, RequestPermit};
use crate::web::{ClientLink, GuardSource, Guarded, Refusal, RequestHead};

/// Waits for a permit. If the request carries a [`ClientLink`](crate::web::ClientLink), it stops waiting when its
/// client disconnects.
impl<S, G> FromRequestParts<S> for Guarded<G>
where
    S: Sync,
    G: GuardSource<S>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let request = G::guard(&RequestHead::new(parts), state).into_request();
        let permit = acquire(request, link(&parts.extensions)).await;
        permit.map(Self::new).map_err(|refusal| G::refuse(refusal, &RequestHead::new(parts)))
    }
}

async fn acquire(request: PermitRequest, link: Option<ClientLink>) -> Result<RequestPermit, Refusal> {
    let (mut acquire, refuse) = match request {
        PermitRequest::Wait(acquire, refuse) => (acquire, refuse),
        PermitRequest::Ready(result) => return result,
    };
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut acquire).poll(cx))).await;
    let permit = match (first, link) {
        (Poll::Ready(result), _) => result,
        (Poll::Pending, None) => acquire.await,
        (Poll::Pending, Some(link)) => {
            let result = tokio::select! {
                result = acquire => result,
                () = link.gone() => return Err(Refusal::client_gone()),
            };
            // The client may have disconnected at the same moment.
            if result.is_ok() && link.is_gone() {
                return Err(Refusal::client_gone());
            }
            result
        }
    };
    permit.map(RequestPermit::new).map_err(refuse)
}
