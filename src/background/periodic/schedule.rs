//! [`Schedule`], which decides when calls begin. It is pure: it neither waits nor reads a clock.
//!
//! # Invariants
//!
//! 1. Without [`Overlap::Allow`] at most one call is in progress.
//! 2. Every due time that has passed began a call, shares a call with another one, or is counted as skipped.
//! 3. Every trigger is served by a call that begins after it. All triggers that arrive before that call begins share
//!    it.

use tokio::time::Instant;

use super::clock::{ClockReading, DueTime};
use super::every::{Every, FirstCall, Overlap};
use super::timetable::Timetable;

/// The schedule of one generation.
pub(super) struct Schedule {
    timetable: Box<dyn Timetable>,
    overlap: Overlap,
    /// How many more calls may begin, if `max_runs` is set.
    remaining_runs: Option<u64>,
    give_up_after: Option<u64>,
    /// A call that is due or was triggered, and has not begun.
    pending: Option<DueCall>,
    running: u64,
    consecutive_failures: u64,
    skipped: u64,
}

/// Why a call begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DueCall {
    /// The latest due time that the call serves, or the time of its first trigger if it serves none.
    pub(super) due: DueTime,
    /// `true` if only triggers requested the call.
    pub(super) is_triggered: bool,
}

/// What the service does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScheduleStep {
    /// Begin a call.
    Call(DueCall),
    /// Wait for a trigger, for the end of a call, or until this time.
    Wait(Option<Instant>),
    /// There are no more calls.
    Done,
}

impl Schedule {
    /// Creates the schedule of a generation. Earlier generations have used up `used_runs` of `max_runs`.
    pub(super) fn new(every: &Every, used_runs: u64, now: ClockReading, random: fn() -> f64) -> Self {
        let mut timetable = every.timetable(now, random);
        let first_call = DueCall { due: DueTime::Monotonic(now.instant), is_triggered: false };
        let pending = (every.first_call == FirstCall::Now).then_some(first_call);
        if pending.is_none() {
            // The first interval begins now, as if a call had just ended.
            timetable.on_idle(now);
        }
        Self {
            timetable,
            overlap: every.overlap,
            remaining_runs: every.max_runs.map(|runs| runs.saturating_sub(used_runs)),
            give_up_after: every.give_up_after,
            pending,
            running: 0,
            consecutive_failures: 0,
            skipped: 0,
        }
    }

    /// Requests a call that begins now, or as soon as the running one has ended. The request was made at `at`.
    pub(super) fn trigger(&mut self, at: Instant) {
        self.pending.get_or_insert(DueCall { due: DueTime::Monotonic(at), is_triggered: true });
    }

    /// Returns what to do now. A returned [`ScheduleStep::Call`] counts as begun.
    pub(super) fn next(&mut self, now: ClockReading) -> ScheduleStep {
        let is_idle = self.running == 0;
        if self.remaining_runs == Some(0) {
            return if is_idle { ScheduleStep::Done } else { ScheduleStep::Wait(None) };
        }
        let may_begin = is_idle || self.overlap == Overlap::Allow;
        let passed = self.timetable.advance(now);
        if passed > 0 {
            let gets_a_call = may_begin || (self.overlap == Overlap::Queue && self.pending.is_none());
            if gets_a_call {
                self.pending = self.timetable.last_due().map(|due| DueCall { due, is_triggered: false });
            }
            self.skipped = self.skipped.saturating_add(passed - u64::from(gets_a_call));
        }
        if let Some(call) = self.pending.take_if(|_| may_begin) {
            self.running += 1;
            self.remaining_runs = self.remaining_runs.map(|runs| runs - 1);
            return ScheduleStep::Call(call);
        }
        if is_idle && self.timetable.is_exhausted() {
            return ScheduleStep::Done;
        }
        ScheduleStep::Wait(self.timetable.wake_at(now))
    }

    /// Records that a call ended. Returns the number of consecutive failures if it has reached `give_up_after`.
    pub(super) fn call_ended(&mut self, now: ClockReading, has_failed: bool) -> Option<u64> {
        self.running -= 1;
        if self.running == 0 {
            self.timetable.on_idle(now);
        }
        self.consecutive_failures = if has_failed { self.consecutive_failures + 1 } else { 0 };
        self.give_up_after.filter(|limit| self.consecutive_failures >= *limit)
    }

    /// Returns the number of calls in progress.
    pub(super) fn running(&self) -> u64 {
        self.running
    }

    /// Returns when the next scheduled call is due. `None` if that is not known yet, or if there are no more calls.
    pub(super) fn next_due(&self) -> Option<DueTime> {
        self.timetable.next_due().filter(|_| self.remaining_runs != Some(0))
    }

    /// Returns the number of calls skipped since the last call of this method.
    pub(super) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }
}
