//! [`GuardBody`], the response body that comes out of a guarded service.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use pin_project_lite::pin_project;

use crate::web::body_hold::BodyHold;

pin_project! {
    /// The response body of a service behind a [`GuardMiddleware`](super::GuardMiddleware), or a refusal's.
    pub struct GuardBody<B> {
        #[pin]
        answer: Answer<B>,
    }
}

pin_project! {
    #[project = AnswerProj]
    enum Answer<B> {
        Plain { #[pin] body: B },
        Whole { body: Bytes },
        Held { #[pin] body: HeldBody<B> },
        Refusal { body: BoxBody },
    }
}

pin_project! {
    /// A response body that holds its request's permit until it has ended or failed, is dropped, or has taken too long.
    struct HeldBody<B> {
        // Before the permit: what is left of the work is dropped while nobody else is inside.
        #[pin]
        body: B,
        hold: BodyHold,
        // Bytes still to come, where the size is known: the server does not ask again after the last.
        left: Option<u64>,
    }
}

type Chunk = Option<Result<Bytes, Box<dyn Error>>>;

impl<B: MessageBody> HeldBody<B> {
    fn new(body: B, hold: BodyHold) -> Self {
        let left = match body.size() {
            BodySize::Sized(size) => Some(size),
            _ => None,
        };
        Self { body, hold, left }
    }

    fn poll_chunk(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Chunk> {
        let this = self.project();
        let chunk = ready!(this.hold.poll_inside(|| this.body.poll_next(cx)));
        if let (Some(left), Some(Ok(bytes))) = (this.left.as_mut(), &chunk) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        if !matches!(chunk, Some(Ok(_))) || *this.left == Some(0) {
            this.hold.release();
        }
        Poll::Ready(chunk.map(|result| result.map_err(Into::into)))
    }
}

impl<B: MessageBody> GuardBody<B> {
    pub(super) fn plain(body: B) -> Self {
        Answer::Plain { body }.into()
    }

    pub(super) fn whole(body: Bytes) -> Self {
        Answer::Whole { body }.into()
    }

    pub(super) fn held(body: B, hold: BodyHold) -> Self {
        Answer::Held { body: HeldBody::new(body, hold) }.into()
    }

    pub(super) fn refusal(body: BoxBody) -> Self {
        Answer::Refusal { body }.into()
    }
}

impl<B> From<Answer<B>> for GuardBody<B> {
    fn from(answer: Answer<B>) -> Self {
        Self { answer }
    }
}

impl<B: MessageBody> MessageBody for GuardBody<B> {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        match &self.answer {
            Answer::Plain { body } => body.size(),
            Answer::Whole { body } => body.size(),
            Answer::Held { body } => body.body.size(),
            Answer::Refusal { body } => body.size(),
        }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Chunk> {
        match self.project().answer.project() {
            AnswerProj::Plain { body } => body.poll_next(cx).map_err(Into::into),
            AnswerProj::Whole { body } => Pin::new(body).poll_next(cx).map_err(Into::into),
            AnswerProj::Held { body } => body.poll_chunk(cx),
            AnswerProj::Refusal { body } => Pin::new(body).poll_next(cx),
        }
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        match self.answer {
            Answer::Plain { body } => body.try_into_bytes().map_err(Self::plain),
            Answer::Whole { body } => Ok(body),
            held @ Answer::Held { .. } => Err(held.into()),
            Answer::Refusal { body } => body.try_into_bytes().map_err(Self::refusal),
        }
    }
}

impl<B> fmt::Debug for GuardBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = matches!(self.answer, Answer::Held { .. });
        f.debug_struct("GuardBody").field("held", &held).finish_non_exhaustive()
    }
}
