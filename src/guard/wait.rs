//! [`PermitWait`], one wait for a permit: the part that async and blocking callers have in common.
//!
//! Nothing here sleeps, and no decision reads a clock: [`acquire`](super::acquire) and [`blocking`](super::blocking)
//! sleep, and pass the current time.

use std::task::Waker;

use tokio::time::Instant;

use super::core::WaitLimits;
use super::error::AcquireError;
use super::error_kind::AcquireErrorKind;
use super::source::PermitSource;
use super::trace::{self, WaitRecord};
use crate::semaphore::{CancelOutcome, EnqueueOutcome, SemaphoreRefusal, WaitOutcome, WaiterId};

/// A caller's wait, from entering the queue until the caller gets a permit or leaves the queue.
#[derive(Debug, Default)]
pub(super) struct PermitWait {
    /// `None` before and after the wait.
    waiter: Option<WaiterId>,
    clock: Option<Box<WaitClock>>,
    /// When the caller began to wait, if that was before it entered this queue.
    since: Option<Instant>,
    /// The record for the events of this wait. `None` if the events are disabled.
    record: Option<Box<WaitRecord>>,
}

/// The start and the deadlines of a wait. Exists only if the guard has a time limit, or may evict the waiter.
#[derive(Debug)]
struct WaitClock {
    since: Instant,
    limits: WaitLimits,
    /// The time at which the oldest untaken grant may expire.
    next_expiry: Option<Instant>,
}

impl PermitWait {
    /// Creates a wait. `since` is when the caller began to wait, if the caller has already waited for another permit.
    pub(super) fn since(since: Option<Instant>) -> Self {
        Self { since, ..Self::default() }
    }

    /// Returns when the caller began to wait, if it has waited and the guard has a time limit or evicts waiters.
    pub(super) fn began(&self) -> Option<Instant> {
        self.clock.as_ref().map_or(self.since, |clock| Some(clock.since))
    }

    pub(super) fn is_queued(&self) -> bool {
        self.waiter.is_some()
    }

    /// Enqueues the caller after `source` had no permit available. Returns `None` if the caller is now waiting.
    pub(super) fn enqueue(
        &mut self,
        source: &mut impl PermitSource,
        waker: &Waker,
    ) -> Option<Result<(), AcquireError>> {
        // Inside the guard, the caller would wait for its own permit.
        if source.is_inside() && !source.is_closed() {
            return Some(Err(self.refuse_as(source, AcquireErrorKind::WouldDeadlock)));
        }
        // An expired grant goes to a waiter, which makes room in the queue, so that no waiter need be evicted.
        if source.core().limits.evicts {
            source.expire_now();
        }
        let mut outcome = source.enqueue(waker);
        // Normally the waiters expire old grants, but all waiters may be futures that are not polled.
        if matches!(outcome, EnqueueOutcome::Refused(SemaphoreRefusal::Busy | SemaphoreRefusal::QueueFull))
            && source.expire_now()
        {
            outcome = source.enqueue(waker);
        }
        match outcome {
            EnqueueOutcome::Acquired => Some(Ok(())),
            EnqueueOutcome::Queued(waiter) => {
                self.waiter = Some(waiter);
                self.clock = WaitClock::start(source, self.since);
                self.record = trace::record_wait(source, self.since);
                source.core().hold_time.request_sample();
                None
            }
            EnqueueOutcome::Refused(refusal) => Some(Err(self.refuse(source, source.error(refusal)))),
        }
    }

    /// Returns the result of the wait, or `None` while it lasts.
    pub(super) fn poll(&mut self, source: &mut impl PermitSource, waker: &Waker) -> Option<Result<(), AcquireError>> {
        source.poll(&mut self.waiter, waker).map(|outcome| self.end(source, outcome))
    }

    /// Polls, and refuses the caller if it has come to run inside the guard since the last poll.
    pub(super) fn poll_nested(
        &mut self,
        source: &mut impl PermitSource,
        waker: &Waker,
    ) -> Option<Result<(), AcquireError>> {
        let result = self.poll(source, waker);
        if result.is_none() && source.is_inside() {
            self.cancel(source);
            return Some(Err(self.refuse_as(source, AcquireErrorKind::WouldDeadlock)));
        }
        result
    }

    /// Returns when to call [`poll_deadlines`](Self::poll_deadlines) next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.clock.as_ref()?.next_deadline()
    }

    /// Handles the deadlines that have passed by `now`: ends the wait, or revokes grants that were not taken.
    pub(super) fn poll_deadlines(
        &mut self,
        source: &mut impl PermitSource,
        now: Instant,
    ) -> Option<Result<(), AcquireError>> {
        let clock = self.clock.as_mut()?;
        // Grants expire first, because a revoked permit may be granted to this caller.
        if clock.next_expiry.is_some_and(|due| due <= now) {
            clock.expire_grants(source, now);
        }
        let waited = now.saturating_duration_since(clock.since);
        if clock.limits.max_wait.is_some_and(|limit| waited >= limit) {
            return Some(match source.poll_final(self.waiter.take()?) {
                // If a permit was granted just as the timer fired, the caller gets the permit.
                Some(outcome) => self.end(source, outcome),
                None => {
                    source.core().counters.timed_out.add(1);
                    trace::timed_out(source.core(), self.record.as_deref(), waited);
                    Err(AcquireError::timed_out(source.core().name_ref(), waited, source.retry_estimate()))
                }
            });
        }
        None
    }

    /// Removes the caller from the queue, because the caller was dropped.
    pub(super) fn leave(&mut self, source: &mut impl PermitSource) {
        if self.is_queued() && self.cancel(source) != CancelOutcome::AlreadyEnded {
            trace::left(source.core(), self.record.as_deref());
        }
    }

    /// Counts a caller that gets no permit, and returns the error.
    #[cold]
    pub(super) fn refuse_as(&self, source: &impl PermitSource, kind: AcquireErrorKind) -> AcquireError {
        self.refuse(source, source.core().error(kind))
    }

    fn refuse(&self, source: &impl PermitSource, error: AcquireError) -> AcquireError {
        source.core().counters.refused.add(1);
        self.trace_refusal(source, error)
    }

    /// Emits the event of a refusal that is already counted, and returns the error.
    fn trace_refusal(&self, source: &impl PermitSource, error: AcquireError) -> AcquireError {
        trace::refused(source, self.record.as_deref(), &error);
        error
    }

    /// Converts the outcome of the wait to the result for the caller.
    fn end(&self, source: &impl PermitSource, outcome: WaitOutcome) -> Result<(), AcquireError> {
        match outcome {
            WaitOutcome::Acquired => Ok(()),
            WaitOutcome::Expired => Err(source.core().error(AcquireErrorKind::GrantExpired)),
            WaitOutcome::Evicted => {
                let waited = self.began().map(|since| Instant::now().saturating_duration_since(since));
                let error = source.error(SemaphoreRefusal::QueueFull).after(waited.unwrap_or_default());
                // The semaphore has already counted the eviction, because the evicted caller may be dropped before this
                // poll.
                Err(self.trace_refusal(source, error))
            }
            WaitOutcome::Closed => Err(self.refuse_as(source, AcquireErrorKind::Closed)),
        }
    }

    fn cancel(&mut self, source: &mut impl PermitSource) -> CancelOutcome {
        let Some(waiter) = self.waiter.take() else { return CancelOutcome::AlreadyEnded };
        let left = source.left_turn();
        let outcome = source.cancel(waiter);
        if outcome == CancelOutcome::Released {
            source.clear_turn(left);
            source.notify_if_drained();
        }
        outcome
    }
}

impl WaitClock {
    fn start(source: &mut impl PermitSource, since: Option<Instant>) -> Option<Box<Self>> {
        let limits = source.core().limits;
        if limits.max_wait.is_none() && limits.grant_timeout.is_none() && !limits.evicts {
            return None;
        }
        let now = Instant::now();
        let mut clock = Box::new(Self { since: since.unwrap_or(now), limits, next_expiry: None });
        // The first check is made at once, because the earlier waiters may have left before a grant expired.
        clock.expire_grants(source, now);
        Some(clock)
    }

    /// Revokes grants that were not taken in time, and schedules the next check for when another may expire.
    fn expire_grants(&mut self, source: &mut impl PermitSource, now: Instant) {
        if let Some(timeout) = self.limits.grant_timeout {
            let (_, oldest) = source.expire(now);
            self.next_expiry = oldest.unwrap_or(now).checked_add(timeout);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        // A limit that is too far away for an `Instant` is no limit.
        let timeout = self.limits.max_wait.and_then(|limit| self.since.checked_add(limit));
        [timeout, self.next_expiry].into_iter().flatten().min()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::guard::EndpointGuard;

    const LIMIT: Duration = Duration::from_secs(1);

    /// The moment between the last poll and the deadline is too short to be hit through the public API.
    #[test]
    fn permit_granted_at_the_deadline_wins() {
        let endpoint = EndpointGuard::builder("race").max_wait(LIMIT).build();
        let permit = endpoint.try_acquire().expect("the guard is available");
        let guard = &mut &endpoint;
        let mut wait = PermitWait::default();
        assert_eq!(wait.enqueue(guard, Waker::noop()), None);
        assert_eq!(wait.poll(guard, Waker::noop()), None);
        drop(permit);
        assert_eq!(wait.poll_deadlines(guard, Instant::now() + LIMIT), Some(Ok(())));
        assert_eq!((guard.stats().held, guard.stats().timed_out), (1, 0));
    }

    #[test]
    fn wait_without_a_grant_ends_at_the_deadline() {
        let endpoint = EndpointGuard::builder("late").max_wait(LIMIT).build();
        let _permit = endpoint.try_acquire().expect("the guard is available");
        let guard = &mut &endpoint;
        let mut wait = PermitWait::default();
        assert_eq!(wait.enqueue(guard, Waker::noop()), None);
        let deadline = wait.next_deadline().expect("the guard has a limit");
        assert_eq!(wait.poll_deadlines(guard, deadline - Duration::from_nanos(1)), None);
        assert!(wait.is_queued());
        let result = wait.poll_deadlines(guard, deadline);
        let error = result.expect("the wait has ended").expect_err("the limit has passed");
        assert_eq!((error.kind(), error.waited()), (AcquireErrorKind::Timeout, Some(LIMIT)));
        assert!(!wait.is_queued());
        assert_eq!((guard.stats().waiting, guard.stats().timed_out), (0, 1));
    }
}
