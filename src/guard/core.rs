//! [`Core`], what a guard keeps beside its lanes, and [`Gate`], how a caller reaches its lane.

use std::task::Waker;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::error::AcquireError;
use super::retry::{HoldTime, RetryEstimate};
use super::scope::{Scope, ScopeId};
use super::stats::Counters;
use super::wait::Limits;
use crate::guard::trace;
use crate::semaphore::{CancelOutcome, EnqueueOutcome, Refused, WaitOutcome, WaiterId};

/// What a guard keeps beside its lanes.
#[derive(Debug)]
pub(crate) struct Core {
    pub(super) hold_time: HoldTime,
    pub(super) limits: Limits,
    pub(crate) counters: Counters,
    pub(super) drained: Notify,
    pub(crate) name: &'static str,
}

/// A guard, which has a core.
pub(crate) trait HasCore {
    fn core(&self) -> &Core;
}

/// A caller's way to its lane: the guard itself, or a guard and one of its keys.
pub(crate) trait Gate {
    fn core(&self) -> &Core;

    fn permits(&self) -> usize;

    /// How many wait in the lane.
    fn waiting(&self) -> usize;

    /// Takes a permit that is free.
    fn try_enter(&mut self) -> Result<(), Refused>;

    /// Takes a permit that has come free, or the last place in the queue.
    fn join(&mut self, waker: &Waker) -> EnqueueOutcome;

    /// Asks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    fn ask(&mut self, ticket: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome>;

    /// Asks for the last time: leaves the queue, unless the turn has come.
    fn give_up(&mut self, ticket: WaiterId) -> Option<WaitOutcome>;

    /// Gives up the place in the queue, or passes on the permit that was set aside for it.
    fn leave(&mut self, ticket: WaiterId) -> CancelOutcome;

    /// Gives a permit back, to the next in line if there is one. Returns `true` if it may have been the last one of a
    /// closed guard.
    fn exit(&mut self) -> bool;

    /// Takes back the grants made at `limit` or before that nobody took. Returns how many, and when the oldest that
    /// stands was made.
    fn expire_grants(&mut self, limit: Instant, now: Instant) -> (usize, Option<Instant>);

    fn is_closed(&self) -> bool;

    /// The guard is closed, and the last permit has come back.
    fn is_drained(&self) -> bool;

    /// Names the lane while someone is inside. `None` if nobody is.
    fn scope(&self) -> Option<ScopeId>;

    /// Whether this caller is inside already.
    fn is_inside(&self) -> bool {
        Scope::is_any() && self.scope().is_some_and(Scope::is_inside)
    }

    /// Takes a permit without waiting, also one whose grant has expired.
    #[inline]
    fn enter_now(&mut self) -> Result<(), AcquireError> {
        let Err(refused) = self.try_enter() else { return Ok(()) };
        if self.core().limits.grant_timeout.is_some() && self.expire_now() && self.try_enter().is_ok() {
            return Ok(());
        }
        Err(self.error(refused))
    }

    #[inline]
    fn give_back(&mut self) {
        if self.exit() {
            self.core().drained.notify_waiters();
        }
    }

    /// Takes back the grants that nobody took in time. Returns whether there were any.
    #[cold]
    fn expire_now(&mut self) -> bool {
        self.core().limits.grant_timeout.is_some() && self.expire(Instant::now()).0 > 0
    }

    /// Takes back the grants that nobody took in time. Returns how many, and when the oldest that stands was made.
    fn expire(&mut self, now: Instant) -> (usize, Option<Instant>) {
        let Some(limit) = self.core().expiry(now) else { return (0, None) };
        let (turns, oldest) = self.expire_grants(limit, now);
        if turns > 0 {
            self.core().count_expired(turns);
            self.announce_if_drained();
        }
        (turns, oldest)
    }

    fn announce_if_drained(&self) {
        if self.is_drained() {
            self.core().drained.notify_waiters();
        }
    }

    #[inline]
    fn error(&self, refused: Refused) -> AcquireError {
        match refused {
            Refused::Busy => AcquireError::Busy { retry: self.retry_estimate() },
            Refused::Full => AcquireError::QueueFull { retry: self.retry_estimate() },
            Refused::TooManyKeys => AcquireError::TooManyKeys { retry: self.retry_estimate() },
            Refused::Closed => AcquireError::Closed,
        }
    }

    #[inline]
    fn retry_estimate(&self) -> RetryEstimate {
        let hold_time = &self.core().hold_time;
        hold_time.ask();
        hold_time.estimate(self.waiting(), self.permits())
    }
}

/// A gate that can move to a task of its own.
pub(crate) trait OwnedGate: Gate + Send + 'static {
    type Guard: HasCore + Send + Sync + 'static;

    /// The guard, which stays there after the permit has gone.
    fn guard(&self) -> Self::Guard;
}

impl Core {
    pub(super) const fn new(name: &'static str, limits: Limits) -> Self {
        Self { hold_time: HoldTime::new(), limits, counters: Counters::new(), drained: Notify::const_new(), name }
    }

    /// Counts a caller that is turned away at once.
    pub(super) fn refuse(&self, error: AcquireError) -> AcquireError {
        self.counters.refused.add(1);
        trace::refused(self.name, &error);
        error
    }

    /// The time of a grant, where grants expire.
    pub(super) fn grant_stamp(&self) -> Option<Instant> {
        self.limits.grant_timeout.map(|_| Instant::now())
    }

    /// Grants made then or before have expired.
    pub(super) fn expiry(&self, now: Instant) -> Option<Instant> {
        self.limits.grant_timeout.and_then(|timeout| now.checked_sub(timeout))
    }

    pub(super) fn count_expired(&self, turns: usize) {
        self.counters.expired.add(turns as u64);
        trace::expired(self.name, turns);
    }

    /// Waits until `is_drained`, of which everyone is told who waits for it.
    pub(super) async fn drained(&self, is_drained: impl Fn() -> bool, expire: impl Fn(Instant)) {
        loop {
            // Registered before the look, so that no announcement falls in between.
            let announced = self.drained.notified();
            if is_drained() {
                return;
            }
            match self.limits.grant_timeout {
                None => announced.await,
                // Nobody waits any more, so nobody else watches over a turn that nobody takes.
                Some(limit) => {
                    if timeout(limit, announced).await.is_err() {
                        expire(Instant::now());
                    }
                }
            }
        }
    }

    /// Counts a permit that went on before its response body had ended.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn count_overrun(&self) {
        self.counters.overrun.add(1);
        trace::overrun(self.name);
    }
}
