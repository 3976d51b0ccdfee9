//! [`UntilDraining`], a stream that ends with its host.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::debug::impl_debug;

pin_project! {
    /// A stream that ends when a host begins to stop. Created by
    /// [`until_draining`](crate::background::HostHandle::until_draining).
    ///
    /// The inner stream is dropped as soon as it has ended, or has been ended.
    #[must_use = "streams do nothing unless they are polled"]
    pub struct UntilDraining<S> {
        #[pin]
        stream: Option<S>,
        #[pin]
        draining: WaitForCancellationFutureOwned,
    }
}

impl<S> UntilDraining<S> {
    pub(super) fn new(stream: S, draining: CancellationToken) -> Self {
        Self { stream: Some(stream), draining: draining.cancelled_owned() }
    }
}

impl<S: Stream> Stream for UntilDraining<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let mut this = self.project();
        let Some(stream) = this.stream.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let next = match this.draining.poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => stream.poll_next(cx),
        };
        if matches!(next, Poll::Ready(None)) {
            this.stream.set(None);
        }
        next
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.stream.as_ref().map_or(Some(0), |stream| stream.size_hint().1))
    }
}

impl_debug!([S] UntilDraining<S> |this| { has_ended: this.stream.is_none(), .. });
