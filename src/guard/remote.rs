//! [`RemoteWait`], in which a caller of a distributed guard waits for the turn among all processes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::AcquireError;
use super::error_kind::AcquireErrorKind;
use super::permit::HeldPermit;
use super::source::PermitSource;
use super::trace;
use crate::backend::{LockDomain, TurnError, TurnWait};
use crate::park::current_thread_waker;

/// A caller that holds a permit of this process, and waits for the turn among all processes.
pub(super) struct RemoteWait<S: PermitSource> {
    // The wait ends before the permit is released: the next caller of this process must not find an attempt of this
    // caller.
    wait: Option<TurnWait>,
    /// `None` once the wait has ended.
    permit: Option<HeldPermit<S>>,
    domain: &'static LockDomain,
    since: Instant,
}

impl<S: PermitSource> RemoteWait<S> {
    /// Begins to wait, for a caller that has waited for its permit since `began`.
    pub(super) fn new(
        permit: HeldPermit<S>,
        domain: &'static LockDomain,
        began: Option<Instant>,
    ) -> Result<Self, AcquireError> {
        let source = permit.source();
        // The caller is a task in a worker process. The server holds the permit while it waits for this task.
        if source.is_inside() {
            return Err(refuse_as(source, AcquireErrorKind::WouldDeadlock));
        }
        let since = began.unwrap_or_else(Instant::now);
        match TurnWait::new(domain, source.lock_name(), source.waits()) {
            Ok(wait) => Ok(Self { wait: Some(wait), permit: Some(permit), domain, since }),
            Err(error) => Err(refuse(source, error)),
        }
    }

    /// Returns when the caller began to wait, in this process or for others.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Returns when the wait ends without a turn.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let limits = self.permit.as_ref()?.source().core().limits;
        limits.max_wait.and_then(|limit| self.since.checked_add(limit))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<HeldPermit<S>, AcquireError>> {
        let wait = self.wait.as_mut().expect("a remote wait is not polled after it ended");
        wait.poll(self.domain, cx).map(|result| {
            let mut permit = self.leave().expect("a remote wait ends once");
            match result {
                Ok(turn) => {
                    permit.set_turn(turn);
                    Ok(permit)
                }
                Err(error) => Err(refuse(permit.source(), error)),
            }
        })
    }

    /// Polls, and ends the wait if its time is over.
    pub(super) fn poll_until(
        &mut self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<HeldPermit<S>, AcquireError>> {
        if let Poll::Ready(result) = self.poll(cx) {
            return Poll::Ready(result);
        }
        if let Some(error) = self.closed() {
            return Poll::Ready(Err(error));
        }
        let Some(deadline) = self.deadline() else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        Pin::new(&mut coop::unconstrained(timer.as_mut())).poll(cx).map(|()| Err(self.time_out()))
    }

    /// Waits on the current thread.
    pub(super) fn block(mut self) -> Result<HeldPermit<S>, AcquireError> {
        let waker = current_thread_waker();
        loop {
            if let Poll::Ready(result) = self.poll(&mut Context::from_waker(&waker)) {
                return result;
            }
            if let Some(error) = self.closed() {
                return Err(error);
            }
            match self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(left) if left.is_zero() => return Err(self.time_out()),
                Some(left) => thread::park_timeout(left),
            }
        }
    }

    /// Ends the wait if the guard was closed. The waiting future is polled from time to time even if no release is
    /// reported, so it notices the close.
    fn closed(&mut self) -> Option<AcquireError> {
        if !self.permit.as_ref()?.source().is_closed() {
            return None;
        }
        let permit = self.leave()?;
        Some(refuse_as(permit.source(), AcquireErrorKind::Closed))
    }

    /// Ends the wait, and then takes the permit.
    fn leave(&mut self) -> Option<HeldPermit<S>> {
        self.wait = None;
        self.permit.take()
    }

    fn time_out(&mut self) -> AcquireError {
        let permit = self.leave().expect("a remote wait ends once");
        let source = permit.source();
        let waited = self.since.elapsed();
        source.core().counters.timed_out.add(1);
        trace::timed_out(source.core(), None, waited);
        AcquireError::timed_out(source.core().name_ref(), waited, source.retry_estimate())
    }
}

/// Counts a caller that gets no turn, and returns the error.
fn refuse(source: &impl PermitSource, error: TurnError) -> AcquireError {
    let core = source.core();
    let error = match error {
        TurnError::Busy => source.error(crate::semaphore::SemaphoreRefusal::Busy),
        TurnError::NotConnected => core.error(AcquireErrorKind::NotConnected),
        TurnError::Unavailable(error) => core.error(AcquireErrorKind::Unavailable).with_source(error),
    };
    core.counters.refused.add(1);
    trace::refused(source, None, &error);
    error
}

fn refuse_as(source: &impl PermitSource, kind: AcquireErrorKind) -> AcquireError {
    let error = source.core().error(kind);
    source.core().counters.refused.add(1);
    trace::refused(source, None, &error);
    error
}
