//! [`WaitingRequest`], a request that waits in the queue of its guard, or until its service is ready.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::request::Parts;
use http_body::Body;
use tower_service::Service;

use super::read_ahead::ReadAheadBody;
use crate::guard::acquire::AcquireFuture;
use crate::guard::erased::ErasedSource;
use crate::guard::permit::HeldPermit;
use crate::web::layer_settings::LayerSettings;
use crate::web::{ClientLink, Refusal};

/// A request that waits for a permit, and then until the service that will serve it is ready.
pub(super) struct WaitingRequest<S, B: Body> {
    /// `None` once the request has been granted a permit, or if the request needs no permit.
    pub(super) acquire: Option<AcquireFuture<ErasedSource>>,
    // Dropped before the permit, so that no other request runs inside the guard while the service is dropped.
    pub(super) inner: S,
    pub(super) permit: Option<HeldPermit<ErasedSource>>,
    pub(super) parts: Parts,
    pub(super) body: ReadAheadBody<B>,
    pub(super) client: Option<ClientWatch>,
}

/// The reason why a request is not served.
pub(super) enum NotServed<E> {
    Refused(Box<Refusal>),
    /// The service failed to become ready.
    Failed(E),
}

/// Watches whether the client disconnects.
pub(super) struct ClientWatch {
    link: ClientLink,
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<S, B: Body> WaitingRequest<S, B> {
    /// Waits until the service can be called. A request whose poll panicked must not be polled again, because the
    /// request may have lost its permit.
    pub(super) fn poll<R>(
        &mut self,
        settings: &LayerSettings<Parts>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), NotServed<S::Error>>>
    where
        S: Service<R>,
    {
        if let Some(acquire) = &mut self.acquire
            && let Poll::Ready(result) = Pin::new(acquire).poll(cx)
        {
            self.acquire = None;
            let permit = result.map_err(|error| NotServed::Refused(Box::new(settings.refusal(error))))?;
            // The client may have disconnected at the same moment.
            if self.client.as_ref().is_some_and(|client| client.link.is_gone()) {
                return Poll::Ready(Err(NotServed::Refused(Box::new(Refusal::client_gone()))));
            }
            self.permit = Some(permit);
        }
        if self.acquire.is_none()
            && let Poll::Ready(result) = poll_ready_inside(self.permit.as_mut(), &mut self.inner, cx)
        {
            return Poll::Ready(result.map_err(NotServed::Failed));
        }
        if let Some(client) = &mut self.client
            && client.gone.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(NotServed::Refused(Box::new(Refusal::client_gone()))));
        }
        match self.body.poll_read(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(NotServed::Refused(Box::new(Refusal::body_unreadable())))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Polls the service for readiness, inside the guard if a permit is held.
pub(super) fn poll_ready_inside<R, S: Service<R>>(
    permit: Option<&mut HeldPermit<ErasedSource>>,
    inner: &mut S,
    cx: &mut Context<'_>,
) -> Poll<Result<(), S::Error>> {
    let _scope = permit.map(HeldPermit::enter_scope);
    inner.poll_ready(cx)
}

impl ClientWatch {
    pub(super) fn new(link: ClientLink) -> Self {
        let watched = link.clone();
        Self { link, gone: Box::pin(async move { watched.gone().await }) }
    }
}
