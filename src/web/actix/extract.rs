//! [`Guarded`] as an extractor.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};

use crate::debug::impl_debug;
use crate::web::request_guard::{PermitRequest, RequestPermit};
use crate::web::{GuardSource, Guarded, Refusal, RequestHead};

/// Waits for a permit.
impl<G: GuardSource<HttpRequest>> FromRequest for Guarded<G> {
    type Error = Refusal;
    type Future = GuardedFuture<G>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> GuardedFuture<G> {
        let permit = G::guard(&RequestHead::new(request), request).into_request();
        GuardedFuture { permit: Some(permit), request: request.clone(), source: PhantomData }
    }
}

/// Waits for the permit of a [`Guarded`].
pub struct GuardedFuture<G> {
    /// `None` once the future has completed.
    permit: Option<PermitRequest>,
    request: HttpRequest,
    source: PhantomData<fn() -> G>,
}

impl<G: GuardSource<HttpRequest>> Future for GuardedFuture<G> {
    type Output = Result<Guarded<G>, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waited = match self.permit.as_mut().expect("an extractor is not polled after it completed") {
            PermitRequest::Wait(acquire, _) => Some(ready!(Pin::new(acquire).poll(cx))),
            PermitRequest::Ready(_) => None,
        };
        let result = match (self.permit.take(), waited) {
            (Some(PermitRequest::Wait(_, refuse)), Some(result)) => result.map(RequestPermit::new).map_err(refuse),
            (Some(PermitRequest::Ready(result)), _) => result,
            _ => unreachable!("the request was matched above"),
        };
        let refuse = |refusal| G::refuse(refusal, &RequestHead::new(&self.request));
        Poll::Ready(result.map(Guarded::new).map_err(refuse))
    }
}

impl_debug!([G] GuardedFuture<G> |this| { completed: this.permit.is_none(), .. });
