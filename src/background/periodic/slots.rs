//! [`Slots`], the times at which calls are due, whatever becomes of them: [`DelaySlots`] and [`RateSlots`].

use std::time::Duration;

use tokio::time::Instant;

use super::now::{Due, Now};

/// The times at which calls are due, one after the other.
pub(super) trait Slots: Send {
    /// How many have come since the last look.
    fn pass(&mut self, now: Now) -> u64;

    /// A call has ended, and no other runs.
    fn rest(&mut self, _now: Now) {}

    /// When the next one is, if it is known.
    fn next(&self) -> Option<Due>;

    /// When to look again.
    fn wake_at(&self, now: Now) -> Option<Instant>;

    /// Whether there will be no more.
    fn is_over(&self) -> bool {
        false
    }
}

/// By how much calls are late on purpose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jitter {
    pub(super) most: Duration,
    /// From 0 to 1, which it never is.
    pub(super) chance: fn() -> f64,
}

impl Jitter {
    pub(super) fn draw(self) -> Duration {
        if self.most.is_zero() {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(self.most.as_secs_f64() * (self.chance)()).unwrap_or(self.most)
    }
}

/// One interval after the end of each call.
#[derive(Debug)]
pub(super) struct DelaySlots {
    interval: Duration,
    jitter: Jitter,
    /// `None` from when it has come until the call has ended.
    due: Option<Instant>,
}

impl DelaySlots {
    /// The first slot is the first call's end away.
    pub(super) fn new(interval: Duration, jitter: Jitter) -> Self {
        Self { interval, jitter, due: None }
    }
}

impl Slots for DelaySlots {
    fn pass(&mut self, now: Now) -> u64 {
        let has_come = self.due.is_some_and(|due| due <= now.instant);
        if has_come {
            self.due = None;
        }
        has_come.into()
    }

    fn rest(&mut self, now: Now) {
        // Otherwise it was triggered in between, and its schedule stays.
        if self.due.is_none() {
            // None is too far away ever to come.
            self.due = now.instant.checked_add(self.interval.saturating_add(self.jitter.draw()));
        }
    }

    fn next(&self) -> Option<Due> {
        self.due.map(Due::At)
    }

    fn wake_at(&self, _now: Now) -> Option<Instant> {
        self.due
    }
}

/// One interval after the other, however long calls take: each is a whole number of intervals after the first.
#[derive(Debug)]
pub(super) struct RateSlots {
    interval: Duration,
    jitter: Jitter,
    /// Without jitter, so that it does not add up.
    at: Instant,
    /// `None` is too far away ever to come.
    due: Option<Instant>,
}

impl RateSlots {
    /// The first slot is one interval away.
    pub(super) fn new(interval: Duration, jitter: Jitter, now: Now) -> Self {
        let mut slots = Self { interval, jitter, at: now.instant, due: None };
        slots.go_to(now.instant.checked_add(interval));
        slots
    }

    fn go_to(&mut self, at: Option<Instant>) {
        self.at = at.unwrap_or(self.at);
        self.due = at.and_then(|at| at.checked_add(self.jitter.draw()));
    }
}

impl Slots for RateSlots {
    fn pass(&mut self, now: Now) -> u64 {
        let mut passed = 0_u64;
        while self.due.is_some_and(|due| due <= now.instant) {
            // The jitter is shorter than the interval, so of the slots that lie behind, all but the last are over whatever
            // theirs was: in one step, for there may be any number of them.
            let late = now.instant.saturating_duration_since(self.at);
            let behind = late.as_nanos() / self.interval.as_nanos().max(1);
            if behind == 0 {
                passed += 1;
                self.go_to(self.at.checked_add(self.interval));
            } else {
                passed = passed.saturating_add(u64::try_from(behind).unwrap_or(u64::MAX));
                self.go_to(now.instant.checked_sub(remainder(late, self.interval)));
            }
        }
        passed
    }

    fn next(&self) -> Option<Due> {
        self.due.map(Due::At)
    }

    fn wake_at(&self, _now: Now) -> Option<Instant> {
        self.due
    }
}

fn remainder(duration: Duration, of: Duration) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let nanos = duration.as_nanos() % of.as_nanos().max(1);
    // Both fit: the first is at most `duration`'s own, the second less than a second.
    Duration::new((nanos / SECOND) as u64, (nanos % SECOND) as u32)
}
