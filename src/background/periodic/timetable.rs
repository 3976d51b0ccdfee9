//! [`Timetable`], the times at which calls are due, whether or not they take place: [`FixedDelay`] and [`FixedRate`].

use std::time::Duration;

use tokio::time::Instant;

use super::clock::{ClockReading, DueTime};

/// A sequence of due times.
pub(super) trait Timetable: Send {
    /// Moves past every due time up to `now`, and returns how many there were.
    fn advance(&mut self, now: ClockReading) -> u64;

    /// Called when a call has ended and no other is in progress.
    fn on_idle(&mut self, _now: ClockReading) {}

    /// Returns the latest due time that has passed, without its jitter.
    fn last_due(&self) -> Option<DueTime>;

    /// Returns the next due time with its jitter, if it is known.
    fn next_due(&self) -> Option<DueTime>;

    /// Returns when to call [`advance`](Self::advance) again.
    fn wake_at(&self, now: ClockReading) -> Option<Instant>;

    /// Returns `true` if there are no more due times.
    fn is_exhausted(&self) -> bool {
        false
    }
}

/// A random delay added to each due time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jitter {
    pub(super) max: Duration,
    /// Returns a random number from 0 up to, but not including, 1.
    pub(super) random: fn() -> f64,
}

impl Jitter {
    pub(super) fn sample(self) -> Duration {
        if self.max.is_zero() {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(self.max.as_secs_f64() * (self.random)()).unwrap_or(self.max)
    }
}

/// One interval after the end of each call.
#[derive(Debug)]
pub(super) struct FixedDelay {
    interval: Duration,
    jitter: Jitter,
    /// `None` from the moment it has passed until the call has ended.
    due: Option<Instant>,
    /// `due` without its jitter.
    scheduled: Option<Instant>,
    /// The latest value of `scheduled` that has passed.
    last: Option<Instant>,
}

impl FixedDelay {
    /// Creates the timetable without a due time: the end of the first call sets it.
    pub(super) fn new(interval: Duration, jitter: Jitter) -> Self {
        Self { interval, jitter, due: None, scheduled: None, last: None }
    }
}

impl Timetable for FixedDelay {
    fn advance(&mut self, now: ClockReading) -> u64 {
        let has_passed = self.due.take_if(|due| *due <= now.instant).is_some();
        if has_passed {
            self.last = self.scheduled.take();
        }
        has_passed.into()
    }

    fn on_idle(&mut self, now: ClockReading) {
        // If a due time is set, the call that ended was triggered in between: the schedule stays.
        if self.due.is_none() {
            // An overflow yields `None`: the due time is too far away ever to be reached.
            self.scheduled = now.instant.checked_add(self.interval);
            self.due = self.scheduled.and_then(|at| at.checked_add(self.jitter.sample()));
        }
    }

    fn last_due(&self) -> Option<DueTime> {
        self.last.map(DueTime::Monotonic)
    }

    fn next_due(&self) -> Option<DueTime> {
        self.due.map(DueTime::Monotonic)
    }

    fn wake_at(&self, _now: ClockReading) -> Option<Instant> {
        self.due
    }
}

/// Whole numbers of intervals after the start, however long calls take.
#[derive(Debug)]
pub(super) struct FixedRate {
    interval: Duration,
    jitter: Jitter,
    /// The due time without its jitter, so that jitter does not accumulate.
    scheduled: Instant,
    /// `None` if it is too far away ever to be reached.
    due: Option<Instant>,
    /// The latest due time that has passed, without its jitter.
    last: Option<Instant>,
}

impl FixedRate {
    /// Creates the timetable. The first due time is one interval from now.
    pub(super) fn new(interval: Duration, jitter: Jitter, now: ClockReading) -> Self {
        let mut timetable = Self { interval, jitter, scheduled: now.instant, due: None, last: None };
        timetable.schedule_at(now.instant.checked_add(interval));
        timetable
    }

    fn schedule_at(&mut self, at: Option<Instant>) {
        self.scheduled = at.unwrap_or(self.scheduled);
        self.due = at.and_then(|at| at.checked_add(self.jitter.sample()));
    }
}

impl Timetable for FixedRate {
    fn advance(&mut self, now: ClockReading) -> u64 {
        let mut passed = 0_u64;
        while self.due.is_some_and(|due| due <= now.instant) {
            // Jitter is shorter than the interval, so every due time but the latest has passed whatever its jitter was.
            // They are skipped in one step, since there may be any number of them.
            let late = now.instant.saturating_duration_since(self.scheduled);
            let missed = late.as_nanos() / self.interval.as_nanos().max(1);
            if missed == 0 {
                passed += 1;
                self.last = Some(self.scheduled);
                self.schedule_at(self.scheduled.checked_add(self.interval));
            } else {
                passed = passed.saturating_add(u64::try_from(missed).unwrap_or(u64::MAX));
                self.schedule_at(now.instant.checked_sub(remainder(late, self.interval)));
                self.last = self.scheduled.checked_sub(self.interval);
            }
        }
        passed
    }

    fn last_due(&self) -> Option<DueTime> {
        self.last.map(DueTime::Monotonic)
    }

    fn next_due(&self) -> Option<DueTime> {
        self.due.map(DueTime::Monotonic)
    }

    fn wake_at(&self, _now: ClockReading) -> Option<Instant> {
        self.due
    }
}

fn remainder(dividend: Duration, divisor: Duration) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let nanos = dividend.as_nanos() % divisor.as_nanos().max(1);
    // Both casts are lossless: the quotient is at most the seconds of `dividend`, the remainder is below 10^9.
    Duration::new((nanos / SECOND) as u64, (nanos % SECOND) as u32)
}
