//! [`WallSlots`], the times of a calendar, on a wall clock that may be put forward and back.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::now::{Due, Now};
use super::slots::{Jitter, Slots};

/// How long to sleep at most before the wall clock is looked at again. Timers go by another clock, which also stands still
/// while the machine is suspended.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A clock that is put back by no more than this repeats no call. Beyond, it was wrong before, and what was called by it
/// says nothing. It is the rule and the number of Vixie's cron.
const SMALL_CHANGE: Duration = Duration::from_secs(3 * 3600);

/// How many slots that were missed are counted one by one.
const COUNTED: u64 = 1_000;

/// The times that a calendar names. `next_after` gives the first one after a time, and is the calendar.
pub(super) struct WallSlots<C> {
    next_after: C,
    jitter: Jitter,
    /// The last one that has come.
    last: Option<SystemTime>,
    looked_at: SystemTime,
    next: Option<Slot>,
}

#[derive(Clone, Copy)]
struct Slot {
    at: SystemTime,
    /// With its jitter.
    due: SystemTime,
}

impl<C: Fn(SystemTime) -> Option<SystemTime>> WallSlots<C> {
    pub(super) fn new(next_after: C, jitter: Jitter, now: Now) -> Self {
        let mut slots = Self { next_after, jitter, last: None, looked_at: now.wall, next: None };
        slots.next = slots.slot_after(now.wall);
        slots
    }

    fn slot_after(&self, time: SystemTime) -> Option<Slot> {
        // Whatever the calendar says, time goes on.
        let at = (self.next_after)(time).filter(|at| *at > time)?;
        Some(Slot { at, due: at.checked_add(self.jitter.draw())? })
    }

    /// The clock was put back: what comes next is another one, unless it is the same.
    fn put_back(&mut self, wall: SystemTime) {
        let small_change = wall.checked_add(SMALL_CHANGE);
        // Those up to the last one were called already, if the clock was right then.
        let from =
            self.last.filter(|last| *last > wall && small_change.is_some_and(|limit| *last <= limit)).unwrap_or(wall);
        let next = self.slot_after(from);
        if next.map(|slot| slot.at) != self.next.map(|slot| slot.at) {
            self.next = next;
        }
    }
}

impl<C: Fn(SystemTime) -> Option<SystemTime> + Send> Slots for WallSlots<C> {
    fn pass(&mut self, now: Now) -> u64 {
        if now.wall < self.looked_at {
            self.put_back(now.wall);
        }
        self.looked_at = now.wall;
        let mut passed = 0;
        while let Some(slot) = self.next.filter(|slot| slot.due <= now.wall) {
            passed += 1;
            self.last = Some(slot.at);
            // A clock that was wrong by years would have it count for minutes.
            self.next = self.slot_after(if passed < COUNTED { slot.at } else { now.wall });
        }
        passed
    }

    fn next(&self) -> Option<Due> {
        self.next.map(|slot| Due::OnTheWall(slot.due))
    }

    fn wake_at(&self, now: Now) -> Option<Instant> {
        let due = self.next?.due;
        let left = due.duration_since(now.wall).unwrap_or_default();
        now.instant.checked_add(left.min(LOOK_EVERY))
    }

    fn is_over(&self) -> bool {
        self.next.is_none()
    }
}
