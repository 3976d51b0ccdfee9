//! [`ServedBody`], the body of a response, whose request ends with it, and [`UploadedBody`], the body of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};

use crate::web::serve::{Connection, RequestGuard, UploadGuard};

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

/// The body of a request. Its connection is in use until the body is dropped, even if the response has ended.
#[derive(Debug)]
pub(super) struct UploadedBody {
    body: Body,
    /// `None` once the body has ended.
    upload: Option<UploadGuard>,
}

/// A body of this size or less is not tracked. It arrives together with the head of its request, or soon after.
const SMALL_UPLOAD: u64 = 8 * 1024;

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

impl UploadedBody {
    /// Returns a body that holds its connection, unless the body is small.
    pub(super) fn wrap(body: Body, connection: &Arc<Connection>) -> Body {
        if body.is_end_stream() || body.size_hint().exact().is_some_and(|size| size <= SMALL_UPLOAD) {
            return body;
        }
        Body::new(Self { body, upload: Some(connection.begin_upload()) })
    }
}

impl HttpBody for UploadedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.body).poll_frame(cx);
        if matches!(poll, Poll::Ready(None | Some(Err(_)))) || this.body.is_end_stream() {
            this.upload = None;
        }
        poll
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
