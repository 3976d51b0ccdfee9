//! [`ServedBody`], the body of a response, with which its request ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};

use crate::web::serve::RequestGuard;

/// The body of a response. Its request is in progress until the body is dropped.
#[derive(Debug)]
pub(super) struct ServedBody {
    body: Body,
    _request: RequestGuard,
}

impl ServedBody {
    /// Returns a body that holds the request, unless the body is empty.
    pub(super) fn wrap(body: Body, request: RequestGuard) -> Body {
        if body.is_end_stream() { body } else { Body::new(Self { body, _request: request }) }
    }
}

impl HttpBody for ServedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
