//! [`HeldBody`], a response body that holds its request's permit.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::debug::impl_debug;
use crate::web::body_hold::BodyHold;

pin_project! {
    /// A response body that holds its request's permit until the body has ended or failed, is dropped, or has taken too
    /// long.
    pub struct HeldBody<B> {
        // Dropped before the permit, so that no other request runs inside the guard while the rest of the work is
        // dropped.
        #[pin]
        body: B,
        hold: BodyHold,
    }
}

impl<B> HeldBody<B> {
    pub(super) fn new(body: B, hold: BodyHold) -> Self {
        Self { body, hold }
    }
}

impl<B: Body> Body for HeldBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.hold.poll_inside(|| this.body.as_mut().poll_frame(cx)));
        // A server need not poll the body again after the last frame.
        if !matches!(frame, Some(Ok(_))) || this.body.is_end_stream() {
            this.hold.release();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl_debug!([B] HeldBody<B> |this| { hold: this.hold, .. });
