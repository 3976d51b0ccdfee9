//! [`Cut`], a phase of a service that can be cut off, and whose panics end in it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::inside::Inside;
use super::line::{Line, Phase};
use crate::panic::{Panic, catch};

pin_project! {
    /// Polls a phase of a service until it ends, panics, or is cut off.
    pub(super) struct Cut<'a, F> {
        #[pin]
        future: Option<F>,
        line: &'a Line,
        phase: Phase,
    }
}

/// How a phase ended otherwise than by itself.
#[derive(Debug)]
pub(super) enum CutOff {
    Panicked(Panic),
    /// It was dropped where it waited.
    Dropped,
}

impl<'a, F> Cut<'a, F> {
    pub(super) fn new(line: &'a Line, phase: Phase, future: F) -> Self {
        Self { future: Some(future), line, phase }
    }
}

impl<F: Future> Future for Cut<'_, F> {
    type Output = Result<F::Output, CutOff>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let line = *this.line;
        if line.poll_cut(*this.phase, cx) {
            end(this.future, line);
            return Poll::Ready(Err(CutOff::Dropped));
        }
        let future = this.future.as_mut().as_pin_mut().expect("it is not polled after its end");
        let poll = within(line, || future.poll(cx));
        let ended = match poll {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(CutOff::Panicked(panic)),
        };
        end(this.future, line);
        Poll::Ready(ended)
    }
}

/// Drops what was polled. Destructors are the service's, too.
fn end<F>(future: Pin<&mut Option<F>>, line: &Line) {
    let mut future = future;
    let _ = within(line, || future.set(None));
}

/// Runs code of the service, known as such, whose panic ends here.
pub(super) fn within<T>(line: &Line, code: impl FnOnce() -> T) -> Result<T, Panic> {
    let _inside = Inside::enter(line.link.address());
    line.set_in_poll(true);
    let result = catch(code);
    line.set_in_poll(false);
    result
}
