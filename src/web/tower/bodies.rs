//! [`BodyKind`]: which body types go into a guarded service and come out of it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::held_body::HeldBody;
use super::read_ahead::Replay;
use crate::web::ClientLink;

/// Which request bodies a [`GuardLayer`](super::GuardLayer) hands to the service behind it.
///
/// [`AnyBody`] serves every service. axum's kind leaves axum's own body as it is, which saves two allocations a
/// request.
pub trait RequestBody<B: Body>: BodyKind {
    /// What the service behind the layer gets.
    type Request;

    /// A request of whose body nothing was read.
    fn untouched(request: Request<B>) -> Request<Self::Request>;

    /// A body that was read ahead.
    fn replayed(body: Replay<B>) -> Self::Request;
}

/// Which response bodies a [`GuardLayer`](super::GuardLayer) returns.
pub trait ResponseBody<B>: BodyKind {
    /// What the layer returns.
    type Response;

    /// A body that holds no permit.
    fn plain(body: B) -> Self::Response;

    /// A body that holds the permit.
    fn held(body: HeldBody<B>) -> Self::Response;

    /// A body that is there as a whole, such as a refusal's.
    fn whole(body: Bytes) -> Self::Response;
}

/// A kind of bodies: [`AnyBody`], or axum's.
pub trait BodyKind: Send + Sync + 'static {
    /// Whether a clone of the service is made for each request and called once, as axum does. Then the inner service
    /// goes with the request, instead of a clone of it.
    const CALLED_ONCE: bool;

    /// The target of a request, as the client sent it.
    fn uri(head: &Parts) -> &Uri {
        &head.uri
    }

    /// The link to the client, if the request carries one.
    fn link(extensions: &Extensions) -> Option<ClientLink>;
}

/// The body kind for every service: bodies are wrapped, whatever they are.
#[derive(Clone, Copy, Debug)]
pub enum AnyBody {}

impl BodyKind for AnyBody {
    const CALLED_ONCE: bool = false;

    fn link(extensions: &Extensions) -> Option<ClientLink> {
        extensions.get().cloned()
    }
}

pin_project! {
    /// The request body that a service behind a [`GuardLayer`](super::GuardLayer) gets: as it came, or read ahead while
    /// the request waited.
    pub struct GuardRequestBody<B: Body> {
        #[pin]
        source: Source<B>,
    }
}

pin_project! {
    #[project = SourceProj]
    enum Source<B: Body> {
        Untouched { #[pin] body: B },
        Replayed { body: Replay<B> },
    }
}

pin_project! {
    /// The response body of a service behind a [`GuardLayer`](super::GuardLayer), or a refusal's.
    pub struct GuardBody<B> {
        #[pin]
        answer: Answer<B>,
    }
}

pin_project! {
    #[project = AnswerProj]
    enum Answer<B> {
        Plain { #[pin] body: B },
        Held { #[pin] body: HeldBody<B> },
        Whole { body: Option<Bytes> },
    }
}

impl<B> RequestBody<B> for AnyBody
where
    B: Body,
    B::Data: Unpin,
{
    type Request = GuardRequestBody<B>;

    fn untouched(request: Request<B>) -> Request<GuardRequestBody<B>> {
        request.map(|body| GuardRequestBody { source: Source::Untouched { body } })
    }

    fn replayed(body: Replay<B>) -> GuardRequestBody<B> {
        GuardRequestBody { source: Source::Replayed { body } }
    }
}

impl<B> ResponseBody<B> for AnyBody
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Response = GuardBody<B>;

    fn plain(body: B) -> GuardBody<B> {
        GuardBody { answer: Answer::Plain { body } }
    }

    fn held(body: HeldBody<B>) -> GuardBody<B> {
        GuardBody { answer: Answer::Held { body } }
    }

    fn whole(body: Bytes) -> GuardBody<B> {
        GuardBody { answer: Answer::Whole { body: Some(body) } }
    }
}

impl<B> Body for GuardRequestBody<B>
where
    B: Body,
    B::Data: Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().source.project() {
            SourceProj::Untouched { body } => body.poll_frame(cx),
            SourceProj::Replayed { body } => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Untouched { body } => body.is_end_stream(),
            Source::Replayed { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Untouched { body } => body.size_hint(),
            Source::Replayed { body } => body.size_hint(),
        }
    }
}

impl<B> Body for GuardBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().answer.project() {
            AnswerProj::Plain { body } => body.poll_frame(cx),
            AnswerProj::Held { body } => body.poll_frame(cx),
            AnswerProj::Whole { body } => Poll::Ready(body.take().map(|body| Ok(Frame::data(body.into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.answer {
            Answer::Plain { body } => body.is_end_stream(),
            Answer::Held { body } => body.is_end_stream(),
            Answer::Whole { body } => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.answer {
            Answer::Plain { body } => body.size_hint(),
            Answer::Held { body } => body.size_hint(),
            Answer::Whole { body } => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}

impl<B: Body> fmt::Debug for GuardRequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read_ahead = matches!(self.source, Source::Replayed { .. });
        f.debug_struct("GuardRequestBody").field("read_ahead", &read_ahead).finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for GuardBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = matches!(self.answer, Answer::Held { .. });
        f.debug_struct("GuardBody").field("held", &held).finish_non_exhaustive()
    }
}
