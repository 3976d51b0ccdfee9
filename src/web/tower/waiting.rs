//! [`WaitingRequest`], a request in the queue of its guard.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::request::Parts;
use http_body::Body;

use super::read_ahead::ReadAheadBody;
use crate::guard::acquire::AcquireFuture;
use crate::guard::erased::ErasedSource;
use crate::guard::permit::HeldPermit;
use crate::web::layer_settings::LayerSettings;
use crate::web::{ClientLink, Refusal};

/// A request that waits for a permit, with the service that will serve it.
pub(super) struct WaitingRequest<S, B: Body> {
    pub(super) acquire: AcquireFuture<ErasedSource>,
    pub(super) inner: S,
    pub(super) parts: Parts,
    pub(super) body: ReadAheadBody<B>,
    pub(super) client: Option<ClientWatch>,
}

/// Watches whether the client disconnects.
pub(super) struct ClientWatch {
    link: ClientLink,
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<S, B: Body> WaitingRequest<S, B> {
    pub(super) fn poll(
        &mut self,
        settings: &LayerSettings<Parts>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<HeldPermit<ErasedSource>, Refusal>> {
        if let Poll::Ready(result) = Pin::new(&mut self.acquire).poll(cx) {
            return Poll::Ready(match result {
                // The client may have disconnected at the same moment.
                Ok(_) if self.client.as_ref().is_some_and(|client| client.link.is_gone()) => {
                    Err(Refusal::client_gone())
                }
                result => result.map_err(|error| settings.refusal(error)),
            });
        }
        if let Some(client) = &mut self.client
            && client.gone.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(Refusal::client_gone()));
        }
        match self.body.poll_read(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(Refusal::body_unreadable())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl ClientWatch {
    pub(super) fn new(link: ClientLink) -> Self {
        let watched = link.clone();
        Self { link, gone: Box::pin(async move { watched.gone().await }) }
    }
}
