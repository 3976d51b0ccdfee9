//! [`Ticker`], the state that a periodic service shares with its host.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::{ClockReading, DueTime};
use super::every::Every;
use super::schedule::DueCall;
use super::tick_context::TickContext;
use crate::background::context::RunContext;
use crate::background::status::{ExitKind, TickSource, TickStatus};
use crate::debug::impl_debug;
use crate::sync::lock;

/// The status of a periodic service's calls, and a trigger for one more.
pub(crate) struct Ticker {
    pub(super) every: Every,
    is_blocking: bool,
    state: Mutex<TickerState>,
    triggered: Notify,
    /// Notified when no call is in progress.
    idle: Notify,
}

#[derive(Default)]
struct TickerState {
    /// Complete except for `next_run`, which is computed for each snapshot.
    status: TickStatus,
    next_due: Option<DueTime>,
    /// How many of `max_runs` are used up.
    used_runs: u64,
    /// The time of the first trigger that the service has not taken.
    triggered_at: Option<Instant>,
}

impl Ticker {
    pub(super) fn new(every: Every, is_blocking: bool) -> Self {
        Self { every, is_blocking, state: Mutex::default(), triggered: Notify::new(), idle: Notify::new() }
    }

    /// Returns the time of the first trigger since the last call of this method, if there was one.
    pub(super) fn take_trigger(&self) -> Option<Instant> {
        lock(&self.state).triggered_at.take()
    }

    /// Waits for a trigger. May return spuriously, for a trigger that was already taken.
    pub(super) async fn triggered(&self) {
        self.triggered.notified().await;
    }

    /// Waits until no call is in progress. A blocking call may outlive its generation.
    pub(super) async fn idle(&self) {
        loop {
            // Registered before the check, so that no notification is missed in between.
            let idle = pin!(self.idle.notified());
            if lock(&self.state).status.running == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Returns how many of `max_runs` are used up.
    pub(super) fn used_runs(&self) -> u64 {
        lock(&self.state).used_runs
    }

    /// Makes `max_runs` count from zero again.
    pub(super) fn reset_used_runs(&self) {
        lock(&self.state).used_runs = 0;
    }

    /// Publishes when the next call is due, and adds to the number of skipped calls.
    pub(super) fn update(&self, next_due: Option<DueTime>, skipped: u64) {
        let mut state = lock(&self.state);
        state.next_due = next_due;
        state.status.skipped = state.status.skipped.saturating_add(skipped);
    }

    /// Records that a call begins. Returns the record, and the context of the call in the generation `cx`.
    pub(super) fn start_call(self: &Arc<Self>, cx: &RunContext, call: DueCall) -> (CallRecord, TickContext) {
        let now = ClockReading::now();
        let mut state = lock(&self.state);
        state.used_runs += 1;
        state.status.runs += 1;
        state.status.running += 1;
        state.status.last_started = Some(now.wall);
        let context = TickContext::new(cx, call, now, &state.status, self.every.tick_timeout);
        drop(state);
        (CallRecord { ticker: Arc::clone(self), since: now.instant, exit: ExitKind::Aborted }, context)
    }
}

impl TickSource for Ticker {
    fn problem(&self) -> Option<(&'static str, &'static str)> {
        self.every.problem(self.is_blocking)
    }

    fn status(&self) -> TickStatus {
        let now = ClockReading::now();
        let state = lock(&self.state);
        let next_run = state.next_due.and_then(|due| due.to_wall(now));
        TickStatus { next_run, ..state.status.clone() }
    }

    fn trigger(&self) {
        lock(&self.state).triggered_at.get_or_insert_with(Instant::now);
        self.triggered.notify_one();
    }
}

impl_debug!(Ticker |this| { status: this.status(), .. });

/// A call in progress. Dropping the record ends the call in the status: as aborted, unless it [finished](Self::finish).
pub(super) struct CallRecord {
    ticker: Arc<Ticker>,
    since: Instant,
    exit: ExitKind,
}

impl CallRecord {
    /// Returns how long the call may take.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.ticker.every.tick_timeout
    }

    /// Returns the timeout if the call has exceeded it.
    pub(super) fn exceeded(&self) -> Option<Duration> {
        self.timeout().filter(|limit| self.since.elapsed() > *limit)
    }

    pub(super) fn finish(mut self, exit: ExitKind) {
        self.exit = exit;
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        let exit = std::mem::replace(&mut self.exit, ExitKind::Aborted);
        let duration = self.since.elapsed();
        let mut state = lock(&self.ticker.state);
        let status = &mut state.status;
        status.running -= 1;
        status.last_duration = Some(duration);
        let replaced_exit = status.last_exit.replace(exit.clone());
        let mut replaced_failure = None;
        if exit.is_failure() {
            status.failures += 1;
            status.consecutive_failures += 1;
            replaced_failure = status.last_failure.replace(exit);
        } else {
            status.consecutive_failures = 0;
        }
        let is_idle = status.running == 0;
        // The replaced errors are user code: they are dropped after the lock is released.
        drop(state);
        if is_idle {
            self.ticker.idle.notify_waiters();
        }
        drop((replaced_exit, replaced_failure));
    }
}
