//! [`ServedBody`], the body of a response, with which its request ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};

use crate::web::serve::RequestGuard;

/// The body of a response. Its request is in progress until the body is dropped.
#[derive(Debug)]
pub(super) struct ServedBody {
    body: Body,
    request: BodyRequest,
}

#[derive(Debug)]
enum BodyRequest {
    Plain(#[allow(dead_code, reason = "dropping it ends the request")] RequestGuard),
    /// Each part of the body holds the request until the server has written that part.
    Followed(Arc<RequestGuard>),
}

/// A part of a body that holds its request.
struct FollowedBytes {
    bytes: Bytes,
    _request: Arc<RequestGuard>,
}

impl ServedBody {
    /// Returns a body that holds the request, unless the body is empty.
    pub(super) fn wrap(body: Body, mut request: RequestGuard) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let request =
            if request.follows_body() { BodyRequest::Followed(Arc::new(request)) } else { BodyRequest::Plain(request) };
        Body::new(Self { body, request })
    }
}

impl HttpBody for ServedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.body).poll_frame(cx);
        let BodyRequest::Followed(request) = &this.request else { return poll };
        poll.map_ok(|frame| {
            frame.map_data(|bytes| Bytes::from_owner(FollowedBytes { bytes, _request: Arc::clone(request) }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AsRef<[u8]> for FollowedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
