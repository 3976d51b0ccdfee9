//! [`Calendar`], due times on a wall clock that may be set forward and back.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::clock::{ClockReading, DueTime};
use super::timetable::{Jitter, Timetable};

/// The longest sleep before the wall clock is read again. Timers use the monotonic clock, which may also stop while the
/// machine is suspended.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// A clock that is set back by at most this much repeats no call of a recurrence with fixed times. If it is set back
/// further, it was wrong before, and the calls made by it do not count. The rule and the number are those of Vixie
/// cron.
const SMALL_CHANGE: Duration = Duration::from_secs(3 * 3600);

/// Times on a wall clock, in order.
pub(super) trait Recurrence: Send {
    /// Returns the first time after the given one, if there is one.
    fn next_after(&self, time: SystemTime) -> Option<SystemTime>;

    /// Returns `true` if the times follow the clock wherever it is set, instead of being fixed times of a day.
    fn is_frequent(&self) -> bool;

    /// Returns how many times there are after `after` and up to `until`, and the last of them. There may be billions.
    fn count(&self, after: SystemTime, until: SystemTime) -> (u64, Option<SystemTime>);
}

/// The due times of a recurrence.
pub(super) struct Calendar<R> {
    recurrence: R,
    jitter: Jitter,
    /// The latest time that has passed.
    last: Option<SystemTime>,
    last_reading: SystemTime,
    next: Option<CalendarTime>,
}

#[derive(Clone, Copy)]
struct CalendarTime {
    scheduled: SystemTime,
    /// `scheduled` plus jitter.
    due: SystemTime,
}

impl<R: Recurrence> Calendar<R> {
    pub(super) fn new(recurrence: R, jitter: Jitter, now: ClockReading) -> Self {
        let mut calendar = Self { recurrence, jitter, last: None, last_reading: now.wall, next: None };
        calendar.next = calendar.time_after(now.wall);
        calendar
    }

    fn time_after(&self, time: SystemTime) -> Option<CalendarTime> {
        // A calendar that does not advance must not cause an endless loop.
        let scheduled = self.recurrence.next_after(time).filter(|next| *next > time)?;
        Some(CalendarTime { scheduled, due: scheduled.checked_add(self.jitter.sample())? })
    }

    /// Called when the clock was set back. The next time keeps its jitter if it stays the same.
    fn on_set_back(&mut self, wall: SystemTime) {
        let small_change = wall.checked_add(SMALL_CHANGE).filter(|_| !self.recurrence.is_frequent());
        // After a small change, the fixed times up to the latest one have already had their call.
        let from =
            self.last.filter(|last| *last > wall && small_change.is_some_and(|limit| *last <= limit)).unwrap_or(wall);
        let next = self.time_after(from);
        if next.map(|time| time.scheduled) != self.next.map(|time| time.scheduled) {
            self.next = next;
        }
    }
}

impl<R: Recurrence> Timetable for Calendar<R> {
    fn advance(&mut self, now: ClockReading) -> u64 {
        if now.wall < self.last_reading {
            self.on_set_back(now.wall);
        }
        self.last_reading = now.wall;
        let mut passed = 0;
        while let Some(time) = self.next.filter(|time| time.due <= now.wall) {
            passed += 1;
            let mut last = time.scheduled;
            // If the clock was wrong by years, passing the missed times one by one would take minutes. Those that are
            // older than any jitter have passed whatever their jitter would have been.
            if let Some(certain) = now.wall.checked_sub(self.jitter.max).filter(|_| passed == 1) {
                let (missed, last_missed) = self.recurrence.count(last, certain);
                passed += missed;
                last = last_missed.unwrap_or(last);
            }
            self.last = Some(last);
            self.next = self.time_after(last);
        }
        passed
    }

    fn last_due(&self) -> Option<DueTime> {
        self.last.map(DueTime::Wall)
    }

    fn next_due(&self) -> Option<DueTime> {
        self.next.map(|time| DueTime::Wall(time.due))
    }

    fn wake_at(&self, now: ClockReading) -> Option<Instant> {
        let left = self.next?.due.duration_since(now.wall).unwrap_or_default();
        now.instant.checked_add(left.min(MAX_SLEEP))
    }

    fn is_exhausted(&self) -> bool {
        self.next.is_none()
    }
}
