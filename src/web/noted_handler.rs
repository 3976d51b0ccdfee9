//! [`NotedHandler`], a handler whose response is recorded.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::response_note::ResponseNote;

pin_project! {
    /// A handler that may run without its client. The status of its response is recorded.
    pub(crate) struct NotedHandler<F, T> {
        #[pin]
        handler: F,
        note: ResponseNote,
        status_of: fn(&T) -> u16,
    }
}

impl<F, T> NotedHandler<F, T> {
    pub(crate) fn new(handler: F, note: ResponseNote, status_of: fn(&T) -> u16) -> Self {
        Self { handler, note, status_of }
    }
}

impl<F, T, E> Future for NotedHandler<F, T>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.handler.poll(cx));
        if let Ok(response) = &result {
            this.note.record((this.status_of)(response));
        }
        Poll::Ready(result)
    }
}
