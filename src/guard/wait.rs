//! One wait for a turn: what the async and the blocking callers have in common.
//!
//! Nothing here sleeps or reads a clock. The shells around it ([`super::acquire`], [`super::blocking`]) do, and ask
//! here what to make of it.

use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Gate;
use super::error::AcquireError;
use crate::semaphore::{CancelOutcome, EnqueueOutcome, Refused, WaitOutcome, WaiterId};

/// The time limits that a guard sets to waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_wait: Option<Duration>,
    pub(super) grant_timeout: Option<Duration>,
}

/// A place in the queue, from lining up until the turn comes or the place is given up.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// `None` before and after.
    ticket: Option<WaiterId>,
    clock: Option<Box<WaitClock>>,
}

/// When to look up while waiting. Exists only where a limit is set.
#[derive(Debug)]
struct WaitClock {
    since: Instant,
    limits: Limits,
    /// When to look for a grant that nobody takes.
    next_watch: Option<Instant>,
}

impl Wait {
    pub(super) fn is_queued(&self) -> bool {
        self.ticket.is_some()
    }

    /// Lines up at `gate`, which was found full a moment ago. `None` if the caller now waits.
    pub(super) fn line_up(&mut self, gate: &mut impl Gate, waker: &Waker) -> Option<Result<(), AcquireError>> {
        // Waiting would be for its own permit.
        if gate.is_inside() && !gate.is_closed() {
            return Some(Err(gate.core().refuse(AcquireError::WouldDeadlock)));
        }
        let mut joined = gate.join(waker);
        // Those who wait watch over the grants, but those who wait may all be futures that nobody polls.
        if matches!(joined, EnqueueOutcome::Refused(Refused::Busy | Refused::Full)) && gate.expire_now() {
            joined = gate.join(waker);
        }
        match joined {
            EnqueueOutcome::Entered => Some(Ok(())),
            EnqueueOutcome::Queued(ticket) => {
                self.ticket = Some(ticket);
                self.clock = WaitClock::start(gate);
                gate.core().hold_time.ask();
                None
            }
            EnqueueOutcome::Refused(refused) => Some(Err(gate.core().refuse(gate.error(refused)))),
        }
    }

    /// Whether the turn has come.
    pub(super) fn ask(&mut self, gate: &mut impl Gate, waker: &Waker) -> Option<Result<(), AcquireError>> {
        gate.ask(&mut self.ticket, waker).map(|answer| told(gate, answer))
    }

    /// Whether the turn has come, asked by a task that may have got inside the guard by another way meanwhile.
    pub(super) fn ask_again(&mut self, gate: &mut impl Gate, waker: &Waker) -> Option<Result<(), AcquireError>> {
        let result = self.ask(gate, waker);
        if result.is_none() && gate.is_inside() {
            self.abandon(gate);
            return Some(Err(gate.core().refuse(AcquireError::WouldDeadlock)));
        }
        result
    }

    /// When to call [`look_up`](Self::look_up) next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.clock.as_ref()?.next_look()
    }

    /// Does what is due at `now`: gives up, or takes back a grant that nobody took.
    pub(super) fn look_up(&mut self, gate: &mut impl Gate, now: Instant) -> Option<Result<(), AcquireError>> {
        let clock = self.clock.as_mut()?;
        // First of all: the turn that is taken back may become this caller's.
        if clock.next_watch.is_some_and(|due| due <= now) {
            clock.watch(gate, now);
        }
        let waited = now.saturating_duration_since(clock.since);
        if clock.limits.max_wait.is_some_and(|limit| waited >= limit) {
            return Some(match gate.give_up(self.ticket.take()?) {
                // The turn came while the timer rang: it wins.
                Some(answer) => told(gate, answer),
                None => {
                    gate.core().counters.timed_out.add(1);
                    Err(AcquireError::Timeout { waited, retry: gate.retry_estimate() })
                }
            });
        }
        None
    }

    /// Ends the wait because the caller goes away.
    pub(super) fn abandon(&mut self, gate: &mut impl Gate) {
        let Some(ticket) = self.ticket.take() else { return };
        if gate.leave(ticket) == CancelOutcome::PassedOn {
            gate.announce_if_drained();
        }
    }
}

impl WaitClock {
    fn start(gate: &mut impl Gate) -> Option<Box<Self>> {
        let limits = gate.core().limits;
        if limits.max_wait.is_none() && limits.grant_timeout.is_none() {
            return None;
        }
        let mut clock = Box::new(Self { since: Instant::now(), limits, next_watch: None });
        // At once: those who came before may have been less patient than a grant.
        clock.watch(gate, clock.since);
        Some(clock)
    }

    /// Takes back a grant that nobody took in time, and looks again when the next one may be due.
    fn watch(&mut self, gate: &mut impl Gate, now: Instant) {
        if let Some(timeout) = self.limits.grant_timeout {
            let (_, oldest) = gate.expire(now);
            self.next_watch = oldest.unwrap_or(now).checked_add(timeout);
        }
    }

    fn next_look(&self) -> Option<Instant> {
        // A limit too far away to be an Instant is none.
        let give_up = self.limits.max_wait.and_then(|limit| self.since.checked_add(limit));
        [give_up, self.next_watch].into_iter().flatten().min()
    }
}

/// What the caller is told at the end of its wait.
fn told(gate: &mut impl Gate, answer: WaitOutcome) -> Result<(), AcquireError> {
    match answer {
        WaitOutcome::Entered => Ok(()),
        WaitOutcome::Expired => Err(AcquireError::GrantExpired),
        WaitOutcome::Closed => Err(gate.core().refuse(AcquireError::Closed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::EndpointGuard;

    const LIMIT: Duration = Duration::from_secs(1);

    /// The moment between the last question and the end of the time is too short to be met from outside.
    #[test]
    fn turn_that_comes_as_the_time_is_over_wins() {
        let guard = &mut &EndpointGuard::builder("race").max_wait(LIMIT).build();
        let permit = guard.try_acquire().expect("nobody is inside");
        let mut wait = Wait::default();
        assert_eq!(wait.line_up(guard, Waker::noop()), None);
        assert_eq!(wait.ask(guard, Waker::noop()), None);
        drop(permit);
        assert_eq!(wait.look_up(guard, Instant::now() + LIMIT), Some(Ok(())));
        assert_eq!((guard.stats().held, guard.stats().timed_out), (1, 0));
    }

    #[test]
    fn turn_that_does_not_come_in_time_is_given_up() {
        let guard = &mut &EndpointGuard::builder("late").max_wait(LIMIT).build();
        let _permit = guard.try_acquire().expect("nobody is inside");
        let mut wait = Wait::default();
        assert_eq!(wait.line_up(guard, Waker::noop()), None);
        let due = wait.next_look().expect("it has a limit");
        assert_eq!(wait.look_up(guard, due - Duration::from_nanos(1)), None);
        assert!(wait.is_queued());
        let given_up = wait.look_up(guard, due);
        assert!(matches!(given_up, Some(Err(AcquireError::Timeout { waited: LIMIT, .. }))), "{given_up:?}");
        assert!(!wait.is_queued());
        assert_eq!((guard.stats().waiting, guard.stats().timed_out), (0, 1));
    }
}
