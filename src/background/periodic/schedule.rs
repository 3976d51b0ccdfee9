//! [`Schedule`], which decides when calls begin. It waits for nothing and knows no clock.
//!
//! # Invariants
//!
//! 1. Without [`Overlap::Allow`] at most one call runs.
//! 2. Every slot that has come began a call, shares one with another, or is counted as skipped.
//! 3. Whoever triggers is served by a call that begins later, and as many triggers as come before that begins are one.

use tokio::time::Instant;

use super::every::Every;
use super::first::First;
use super::now::{Due, Now};
use super::overlap::Overlap;
use super::slots::Slots;

/// The calls of one generation.
pub(super) struct Schedule {
    slots: Box<dyn Slots>,
    overlap: Overlap,
    /// How many calls may begin, if there is an end.
    left: Option<u64>,
    give_up_after: Option<u64>,
    /// A call is due, and has not begun.
    is_wanted: bool,
    running: u64,
    failures_in_a_row: u64,
    skipped: u64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin a call.
    Call,
    /// Wait for a trigger, for the end of a call, and until then.
    Wait(Option<Instant>),
    /// There are no more calls.
    Done,
}

impl Schedule {
    /// `begun` is how many of `max_runs` earlier generations have used up.
    pub(super) fn new(every: &Every, begun: u64, now: Now, chance: fn() -> f64) -> Self {
        let mut slots = every.slots(now, chance);
        let is_wanted = every.first == First::Now;
        if !is_wanted {
            // As if a call had ended now.
            slots.rest(now);
        }
        Self {
            slots,
            overlap: every.overlap,
            left: every.max_runs.map(|runs| runs.saturating_sub(begun)),
            give_up_after: every.give_up_after,
            is_wanted,
            running: 0,
            failures_in_a_row: 0,
            skipped: 0,
        }
    }

    /// A call is to begin now, or as soon as the running one has ended.
    pub(super) fn trigger(&mut self) {
        self.is_wanted = true;
    }

    /// What to do now. A call counts as begun when this says so.
    pub(super) fn next(&mut self, now: Now) -> Step {
        let is_idle = self.running == 0;
        if self.left == Some(0) {
            return if is_idle { Step::Done } else { Step::Wait(None) };
        }
        let may_begin = is_idle || self.overlap == Overlap::Allow;
        let passed = self.slots.pass(now);
        if passed > 0 {
            let is_taken = if may_begin { true } else { self.overlap == Overlap::Queue && !self.is_wanted };
            self.is_wanted |= is_taken;
            self.skipped = self.skipped.saturating_add(passed - u64::from(is_taken));
        }
        if self.is_wanted && may_begin {
            self.is_wanted = false;
            self.running += 1;
            self.left = self.left.map(|left| left - 1);
            return Step::Call;
        }
        if is_idle && self.slots.is_over() {
            return Step::Done;
        }
        Step::Wait(self.slots.wake_at(now))
    }

    /// A call has ended. How many have failed in a row, if that is too many.
    pub(super) fn ended(&mut self, now: Now, has_failed: bool) -> Option<u64> {
        self.running -= 1;
        if self.running == 0 {
            self.slots.rest(now);
        }
        self.failures_in_a_row = if has_failed { self.failures_in_a_row + 1 } else { 0 };
        self.give_up_after.filter(|limit| self.failures_in_a_row >= *limit)
    }

    /// How many calls run.
    pub(super) fn running(&self) -> u64 {
        self.running
    }

    /// When the next call is due by schedule, if it is known and there will be one.
    pub(super) fn next_due(&self) -> Option<Due> {
        self.slots.next().filter(|_| self.left != Some(0))
    }

    /// How many were left out since the last time it was asked.
    pub(super) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }
}
