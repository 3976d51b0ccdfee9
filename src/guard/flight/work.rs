//! [`Work`], what a run runs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tracing::Span;

use super::error::FlightError;
use crate::panic::{discard, message_of};

/// What a run comes to.
pub(super) type Outcome<T, E> = Result<T, FlightError<E>>;

/// A run's future.
type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// What a run runs. Polled and dropped, it never panics.
pub(super) struct Work<T, E> {
    /// `None` once it has ended.
    future: Option<Boxed<T, E>>,
    /// That of the caller who began it. In a box, as it is rare and large.
    span: Option<Box<Span>>,
}

/// How work begins.
pub(super) enum Begun<T, E> {
    /// It has ended at once, and has been dropped.
    Ended(Result<T, E>),
    Panicked(FlightError<E>),
    Waiting(Work<T, E>),
}

impl<T, E> Work<T, E> {
    /// Calls `make` and polls what it returns, for the first time.
    #[inline]
    pub(super) fn begin<F>(make: impl FnOnce() -> F, cx: &mut Context<'_>) -> Begun<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        // Outside of what may panic: a destructor that panics as well is no business of the process.
        let mut begun = None;
        let poll = catch_unwind(AssertUnwindSafe(|| begun.insert(Box::pin(make())).as_mut().poll(cx)));
        match poll {
            Ok(Poll::Ready(result)) => {
                discard(begun);
                Begun::Ended(result)
            }
            Ok(Poll::Pending) => Begun::Waiting(Self::waiting(begun.expect("what was polled is there"))),
            Err(panic) => {
                discard(begun);
                Begun::Panicked(panicked(panic))
            }
        }
    }

    /// What had to wait. Until now it ran in its caller's span.
    #[cold]
    fn waiting(future: Boxed<T, E>) -> Self {
        // A subscriber that panics is no reason to lose the work.
        let span = catch_unwind(Span::current).ok().filter(|span| !span.is_none()).map(Box::new);
        Self { future: Some(future), span }
    }

    /// Polls it in the span of the caller that began it. Once it has ended it has been dropped, too.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<T, E>> {
        let Self { future, span } = self;
        let polled = future.as_mut().expect("work is not polled after it ended");
        let poll = catch_unwind(AssertUnwindSafe(|| {
            let _entered = span.as_ref().map(|span| span.enter());
            polled.as_mut().poll(cx)
        }));
        let outcome = match poll {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result.map_err(failed),
            Err(panic) => Err(panicked(panic)),
        };
        discard(future.take());
        Poll::Ready(outcome)
    }
}

impl<T, E> Drop for Work<T, E> {
    fn drop(&mut self) {
        discard(self.future.take());
    }
}

pub(super) fn failed<E>(error: E) -> FlightError<E> {
    FlightError::Failed(Arc::new(error))
}

fn panicked<E>(panic: Box<dyn Any + Send>) -> FlightError<E> {
    let message = message_of(&*panic);
    // The payload is the user's, and so may its destructor be.
    discard(panic);
    FlightError::Panicked { message }
}
