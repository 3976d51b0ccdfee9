//! [`Work`], what a run runs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tracing::Span;

use super::error::FlightError;

/// What a run comes to.
pub(super) type Outcome<T, E> = Result<T, FlightError<E>>;

/// What a run runs. Polled and dropped, it never panics.
pub(super) struct Work<T, E> {
    /// `None` once it has ended.
    future: Option<Pin<Box<dyn Future<Output = Result<T, E>> + Send>>>,
    /// That of the caller who began it. Known once it had to wait: until then it ran in it.
    span: Option<Span>,
}

impl<T, E> Work<T, E> {
    /// Calls `make` and boxes what it returns.
    #[inline]
    pub(super) fn make<F>(make: impl FnOnce() -> F) -> Outcome<Self, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        match catch_unwind(AssertUnwindSafe(make)) {
            Ok(future) => Ok(Self { future: Some(Box::pin(future)), span: None }),
            Err(panic) => Err(panicked(panic)),
        }
    }

    /// Polls it in whatever span this thread is in.
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<T, E>> {
        let future = self.future.as_mut().expect("work is not polled after it ended");
        let poll = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(value))) => Ok(value),
            Ok(Poll::Ready(Err(error))) => Err(FlightError::Failed(Arc::new(error))),
            Err(panic) => Err(panicked(panic)),
        };
        self.discard();
        Poll::Ready(poll)
    }

    /// Others may poll it from now on.
    pub(super) fn remember_span(&mut self) {
        self.span.get_or_insert_with(Span::current);
    }

    /// Polls it in the span of the caller that began it. Once it has ended it has been dropped, too.
    #[inline]
    pub(super) fn poll_in_span(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<T, E>> {
        let span = self.span.clone();
        let _entered = span.as_ref().map(Span::enter);
        self.poll(cx)
    }

    fn discard(&mut self) {
        let future = self.future.take();
        // A destructor that panics changes nothing for the callers. It has shown its message.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
    }
}

impl<T, E> Drop for Work<T, E> {
    fn drop(&mut self) {
        if self.future.is_some() {
            self.discard();
        }
    }
}

fn panicked<E>(panic: Box<dyn Any + Send>) -> FlightError<E> {
    let message = match panic.downcast_ref::<&str>() {
        Some(message) => Arc::from(*message),
        None => panic.downcast_ref::<String>().map_or_else(|| "(no message)".into(), |message| message.as_str().into()),
    };
    // The payload is the user's, and so may its destructor be.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    FlightError::Panicked { message }
}
