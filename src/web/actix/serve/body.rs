//! [`ServedBody`], the body of a response, whose request ends with it.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::web::Bytes;
use pin_project_lite::pin_project;

use super::service::RequestInProgress;
use crate::debug::impl_debug;
use crate::web::serve::UnwrittenPart;

pin_project! {
    /// The body of a response of a server that drains with its host. Its request is in progress until the body is
    /// dropped.
    pub struct ServedBody<B> {
        // Dropped before the request ends.
        #[pin]
        body: EitherBody<B, BoxBody>,
        request: RequestInProgress,
    }
}

impl<B> ServedBody<B> {
    pub(super) fn new(body: EitherBody<B, BoxBody>, request: RequestInProgress) -> Self {
        Self { body, request }
    }
}

impl<B: MessageBody + 'static> MessageBody for ServedBody<B> {
    type Error = <EitherBody<B, BoxBody> as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.project();
        let poll = this.body.poll_next(cx);
        match this.request.http2_connection() {
            Some(connection) => poll.map_ok(|bytes| UnwrittenPart::wrap(bytes, connection)),
            None => poll,
        }
    }
}

impl_debug!([B] ServedBody<B> |this| { request: this.request, .. });
