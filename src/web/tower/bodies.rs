//! [`BodyKind`]: which body types a guarded service gets and returns.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::held_body::{BoxError, HeldBody};
use super::read_ahead::ReplayBody;
use crate::debug::impl_debug;
use crate::web::ClientLink;

/// A kind of body: [`AnyBody`], or [`AxumBody`](crate::web::axum::AxumBody), which leaves axum's own body unchanged and
/// saves two allocations per request.
///
/// Other crates can't name this trait or its subtraits, so they can't implement it.
#[expect(unnameable_types, reason = "the trait is sealed")]
pub trait BodyKind: Send + Sync + 'static {
    /// The form in which the clones of a guarded service hold the inner service.
    type Shared<S: Clone>: Clone;

    fn share<S: Clone>(inner: S) -> Self::Shared<S>;

    /// Returns a clone of the inner service, for one request.
    fn service<S: Clone>(shared: &Self::Shared<S>) -> S;

    /// Returns the target of a request, as the client sent it.
    fn uri(head: &Parts) -> &Uri {
        &head.uri
    }

    /// Returns the link to the client, if the request carries one.
    fn link(extensions: &Extensions) -> Option<ClientLink>;

    /// Makes the request's links release the connection, because the request is about to represent several clients.
    fn unlink(extensions: &mut Extensions) {
        if let Some(link) = extensions.get_mut::<ClientLink>() {
            link.unlink();
        }
    }
}

/// The request bodies that a [`GuardLayer`](super::GuardLayer) passes to the service behind it.
#[expect(unnameable_types, reason = "the trait is sealed")]
pub trait RequestBody<B: Body>: BodyKind {
    /// The body that the service behind the layer gets.
    type Request;

    /// Converts a request whose body has not been read.
    fn untouched(request: Request<B>) -> Request<Self::Request>;

    /// Converts a body that was read ahead.
    fn replayed(body: ReplayBody<B>) -> Self::Request;
}

/// The response bodies that a [`GuardLayer`](super::GuardLayer) returns.
#[expect(unnameable_types, reason = "the trait is sealed")]
pub trait ResponseBody<B>: BodyKind {
    /// The body that the layer returns.
    type Response;

    /// Converts a body that holds no permit.
    fn plain(body: B) -> Self::Response;

    /// Converts a body that holds the permit.
    fn held(body: HeldBody<B>) -> Self::Response;

    /// Converts a body that is complete in memory, such as a refusal's.
    fn whole(body: Bytes) -> Self::Response;
}

/// The body kind for every service: it wraps bodies of any type.
#[derive(Clone, Copy, Debug)]
pub enum AnyBody {}

impl BodyKind for AnyBody {
    /// Not an `Arc`, because the service need not be `Sync`.
    type Shared<S: Clone> = S;

    fn share<S: Clone>(inner: S) -> S {
        inner
    }

    fn service<S: Clone>(shared: &S) -> S {
        shared.clone()
    }

    fn link(extensions: &Extensions) -> Option<ClientLink> {
        extensions.get().cloned()
    }
}

pin_project! {
    /// The request body that a service behind a [`GuardLayer`](super::GuardLayer) gets: the original one, or one that
    /// was read ahead while the request waited.
    pub struct GuardRequestBody<B: Body> {
        #[pin]
        inner: GuardRequestBodyInner<B>,
    }
}

pin_project! {
    #[project = GuardRequestBodyProj]
    enum GuardRequestBodyInner<B: Body> {
        Untouched { #[pin] body: B },
        Replayed { body: ReplayBody<B> },
    }
}

pin_project! {
    /// The response body of a service behind a [`GuardLayer`](super::GuardLayer), or of a refusal.
    pub struct GuardBody<B> {
        #[pin]
        inner: GuardBodyInner<B>,
    }
}

pin_project! {
    #[project = GuardBodyProj]
    enum GuardBodyInner<B> {
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
        request.map(|body| GuardRequestBody { inner: GuardRequestBodyInner::Untouched { body } })
    }

    fn replayed(body: ReplayBody<B>) -> GuardRequestBody<B> {
        GuardRequestBody { inner: GuardRequestBodyInner::Replayed { body } }
    }
}

impl<B> ResponseBody<B> for AnyBody
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Response = GuardBody<B>;

    fn plain(body: B) -> GuardBody<B> {
        GuardBody { inner: GuardBodyInner::Plain { body } }
    }

    fn held(body: HeldBody<B>) -> GuardBody<B> {
        GuardBody { inner: GuardBodyInner::Held { body } }
    }

    fn whole(body: Bytes) -> GuardBody<B> {
        // A response without a body ends with its headers, which gRPC requires of a status.
        let body = Some(body).filter(|body| !body.is_empty());
        GuardBody { inner: GuardBodyInner::Whole { body } }
    }
}

impl<B: Body + Default> Default for GuardRequestBody<B> {
    fn default() -> Self {
        Self { inner: GuardRequestBodyInner::Untouched { body: B::default() } }
    }
}

/// tower-http's layers `Cors` and `Timeout` respond with a default body.
impl<B: Default> Default for GuardBody<B> {
    fn default() -> Self {
        Self { inner: GuardBodyInner::Plain { body: B::default() } }
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
        match self.project().inner.project() {
            GuardRequestBodyProj::Untouched { body } => body.poll_frame(cx),
            GuardRequestBodyProj::Replayed { body } => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            GuardRequestBodyInner::Untouched { body } => body.is_end_stream(),
            GuardRequestBodyInner::Replayed { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            GuardRequestBodyInner::Untouched { body } => body.size_hint(),
            GuardRequestBodyInner::Replayed { body } => body.size_hint(),
        }
    }
}

/// The body fails with its own error, or because the lease of a distributed guard is lost while the body is written.
impl<B> Body for GuardBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        match self.project().inner.project() {
            GuardBodyProj::Plain { body } => {
                body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            GuardBodyProj::Held { body } => body.poll_frame(cx),
            GuardBodyProj::Whole { body } => Poll::Ready(body.take().map(|body| Ok(Frame::data(body.into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            GuardBodyInner::Plain { body } => body.is_end_stream(),
            GuardBodyInner::Held { body } => body.is_end_stream(),
            GuardBodyInner::Whole { body } => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            GuardBodyInner::Plain { body } => body.size_hint(),
            GuardBodyInner::Held { body } => body.size_hint(),
            GuardBodyInner::Whole { body } => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}

impl_debug!([B: Body] GuardRequestBody<B> |this| {
    read_ahead: matches!(this.inner, GuardRequestBodyInner::Replayed { .. }), ..
});

impl_debug!([B] GuardBody<B> |this| { held: matches!(this.inner, GuardBodyInner::Held { .. }), .. });
