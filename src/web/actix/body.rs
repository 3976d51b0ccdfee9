//! [`GuardBody`], the response body that a guarded service returns.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use pin_project_lite::pin_project;

use crate::debug::impl_debug;
use crate::web::body_hold::BodyHold;

pin_project! {
    /// The response body of a service behind a [`GuardMiddleware`](super::GuardMiddleware), or of a
    /// refusal.
    pub struct GuardBody<B> {
        #[pin]
        inner: GuardBodyInner<B>,
    }
}

pin_project! {
    #[project = GuardBodyProj]
    enum GuardBodyInner<B> {
        Plain { #[pin] body: B },
        Whole { body: Bytes },
        Held { #[pin] body: HeldBody<B> },
        Refusal { body: BoxBody },
    }
}

pin_project! {
    /// A response body that holds its request's permit until the body has ended or failed, is dropped, or has taken too
    /// long.
    struct HeldBody<B> {
        // Dropped before the permit, so that no other request runs inside the guard while the rest of the work is
        // dropped.
        #[pin]
        body: B,
        hold: BodyHold,
        // The number of bytes that have not been read yet, if the size is known. The server does not poll the body
        // again after the last byte.
        remaining: Option<u64>,
    }
}

type Chunk = Option<Result<Bytes, Box<dyn Error>>>;

impl<B: MessageBody> HeldBody<B> {
    fn new(body: B, hold: BodyHold) -> Self {
        let remaining = match body.size() {
            BodySize::Sized(size) => Some(size),
            _ => None,
        };
        Self { body, hold, remaining }
    }

    fn poll_chunk(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Chunk> {
        let this = self.project();
        let chunk = match ready!(this.hold.poll_inside(cx, |cx| this.body.poll_next(cx))) {
            Ok(chunk) => chunk,
            Err(lost) => return Poll::Ready(Some(Err(lost.into()))),
        };
        if let (Some(remaining), Some(Ok(bytes))) = (this.remaining.as_mut(), &chunk) {
            *remaining = remaining.saturating_sub(bytes.len() as u64);
        }
        if !matches!(chunk, Some(Ok(_))) || *this.remaining == Some(0) {
            this.hold.release();
        }
        Poll::Ready(chunk.map(|result| result.map_err(Into::into)))
    }
}

impl<B: MessageBody> GuardBody<B> {
    pub(super) fn plain(body: B) -> Self {
        GuardBodyInner::Plain { body }.into()
    }

    pub(super) fn whole(body: Bytes) -> Self {
        GuardBodyInner::Whole { body }.into()
    }

    pub(super) fn held(body: B, hold: BodyHold) -> Self {
        GuardBodyInner::Held { body: HeldBody::new(body, hold) }.into()
    }

    pub(super) fn refusal(body: BoxBody) -> Self {
        GuardBodyInner::Refusal { body }.into()
    }
}

impl<B> From<GuardBodyInner<B>> for GuardBody<B> {
    fn from(inner: GuardBodyInner<B>) -> Self {
        Self { inner }
    }
}

impl<B: MessageBody> MessageBody for GuardBody<B> {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        match &self.inner {
            GuardBodyInner::Plain { body } => body.size(),
            GuardBodyInner::Whole { body } => body.size(),
            GuardBodyInner::Held { body } => body.body.size(),
            GuardBodyInner::Refusal { body } => body.size(),
        }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Chunk> {
        match self.project().inner.project() {
            GuardBodyProj::Plain { body } => body.poll_next(cx).map_err(Into::into),
            GuardBodyProj::Whole { body } => Pin::new(body).poll_next(cx).map_err(Into::into),
            GuardBodyProj::Held { body } => body.poll_chunk(cx),
            GuardBodyProj::Refusal { body } => Pin::new(body).poll_next(cx),
        }
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        match self.inner {
            GuardBodyInner::Plain { body } => body.try_into_bytes().map_err(Self::plain),
            GuardBodyInner::Whole { body } => Ok(body),
            held @ GuardBodyInner::Held { .. } => Err(held.into()),
            GuardBodyInner::Refusal { body } => body.try_into_bytes().map_err(Self::refusal),
        }
    }
}

impl_debug!([B] GuardBody<B> |this| { held: matches!(this.inner, GuardBodyInner::Held { .. }), .. });
