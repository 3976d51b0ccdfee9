//! [`Cut`], a phase of a service that can be cut off, and whose panics end in it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::inside::Inside;
use super::line::{Line, Phase};
use crate::panic::{Panic, catch};

pin_project! {
    /// Calls for a phase of a service, and polls it until it ends, panics, or is cut off.
    pub(super) struct Cut<'a, M, F> {
        line: &'a Line,
        phase: Phase,
        #[pin]
        state: State<M, F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[project_replace = StateReplaced]
    enum State<M, F> {
        // The call itself may panic, so it is made in the poll, too.
        Begin { call: M },
        Polled { #[pin] future: F },
        Over,
    }
}

/// How a phase ended otherwise than by itself.
#[derive(Debug)]
pub(super) enum CutOff {
    Panicked(Panic),
    /// It was dropped where it waited.
    Dropped,
}

impl<'a, M: FnOnce() -> F, F: Future> Cut<'a, M, F> {
    pub(super) fn new(line: &'a Line, phase: Phase, call: M) -> Self {
        Self { line, phase, state: State::Begin { call } }
    }
}

impl<M: FnOnce() -> F, F: Future> Future for Cut<'_, M, F> {
    type Output = Result<F::Output, CutOff>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let line = *this.line;
        let polled = if line.poll_cut(*this.phase, cx) {
            Err(CutOff::Dropped)
        } else {
            match within(line, || this.state.as_mut().poll(cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(output)) => Ok(output),
                Err(panic) => Err(CutOff::Panicked(panic)),
            }
        };
        // Its destructors are the service's, too.
        let _ = within(line, || this.state.set(State::Over));
        Poll::Ready(polled)
    }
}

impl<M: FnOnce() -> F, F: Future> State<M, F> {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if let StateProjection::Polled { future } = self.as_mut().project() {
            return future.poll(cx);
        }
        if let StateReplaced::Begin { call } = self.as_mut().project_replace(Self::Over) {
            self.as_mut().set(Self::Polled { future: call() });
        }
        match self.project() {
            StateProjection::Polled { future } => future.poll(cx),
            StateProjection::Begin { .. } | StateProjection::Over => unreachable!("it is not polled after its end"),
        }
    }
}

/// Runs code of the service, known as such, whose panic ends here.
pub(super) fn within<T>(line: &Line, code: impl FnOnce() -> T) -> Result<T, Panic> {
    let _inside = Inside::enter(line.link.address());
    line.set_in_poll(true);
    let result = catch(code);
    line.set_in_poll(false);
    result
}
