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
        let is_cut_off = line.poll_cut(*this.phase, cx);
        // What has been acquired is released even then, as far as that takes no waiting.
        let is_owed = *this.phase == Phase::Stop && this.state.is_beginning();
        let polled = if is_cut_off && !is_owed {
            Err(CutOff::Dropped)
        } else {
            match within(line, || this.state.as_mut().poll(cx)) {
                Ok(Poll::Pending) if is_cut_off => Err(CutOff::Dropped),
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
    fn is_beginning(&self) -> bool {
        matches!(self, Self::Begin { .. })
    }

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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::time::SystemTime;

    use tokio::sync::{broadcast, mpsc};
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::background::host::Link;
    use crate::background::status::{HostPhase, HostStatus, Services};

    fn line() -> Line {
        let status = HostStatus {
            phase: HostPhase::Running,
            since: SystemTime::now(),
            has_started: true,
            services: Services::new(Vec::new(), HashMap::new()),
            lag: Arc::default(),
        };
        let link = Link::new(mpsc::unbounded_channel().0, status, broadcast::channel(1).0.downgrade());
        Line::new(0, 1, "service".into(), true, None, None, Arc::new(link))
    }

    #[test]
    fn stop_that_is_cut_off_before_it_began_is_called_all_the_same() {
        let (line, calls) = (line(), Cell::new(0));
        line.cut_off(Phase::Stop);
        let call = || calls.set(calls.get() + 1);
        let mut at_once = task::spawn(Cut::new(&line, Phase::Stop, || {
            call();
            ready(())
        }));
        assert!(assert_ready!(at_once.poll()).is_ok());
        let mut waits = task::spawn(Cut::new(&line, Phase::Stop, || {
            call();
            pending::<()>()
        }));
        assert!(matches!(assert_ready!(waits.poll()), Err(CutOff::Dropped)));
        assert_eq!(calls.get(), 2);
    }

    #[test]
    fn what_else_is_cut_off_before_it_began_is_not_called() {
        let line = line();
        line.cut_off(Phase::Run);
        for phase in [Phase::Start, Phase::Run] {
            let mut cut = task::spawn(Cut::new(&line, phase, || -> std::future::Ready<()> { panic!("it is called") }));
            assert!(matches!(assert_ready!(cut.poll()), Err(CutOff::Dropped)));
        }
    }

    #[test]
    fn what_is_cut_off_while_it_waits_is_woken_and_dropped() {
        let line = line();
        let mut cut = task::spawn(Cut::new(&line, Phase::Stop, pending::<()>));
        assert_pending!(cut.poll());
        line.cut_off(Phase::Run);
        assert_pending!(cut.poll());
        line.cut_off(Phase::Stop);
        assert!(cut.is_woken());
        assert!(matches!(assert_ready!(cut.poll()), Err(CutOff::Dropped)));
    }
}
