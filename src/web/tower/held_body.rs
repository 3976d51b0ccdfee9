//! [`HeldBody`], a response body that holds its request's permit.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::debug::impl_debug;
use crate::web::body_hold::BodyHold;

/// The error of a response body: the body's own, or the loss of the guard's lease.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

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

impl<B> Body for HeldBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = match ready!(this.hold.poll_inside(cx, |cx| this.body.as_mut().poll_frame(cx))) {
            Ok(frame) => frame.map(|frame| frame.map_err(Into::into)),
            Err(lost) => return Poll::Ready(Some(Err(lost.into()))),
        };
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
