//! [`Ticker`], what a periodic service and the status of its host share.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::every::Every;
use super::now::{Due, Now};
use crate::background::status::{ExitKind, TickSource, TickStatus};
use crate::sync::lock;

/// The calls of a periodic service, and the wish for one more.
pub(crate) struct Ticker {
    pub(super) every: Every,
    state: Mutex<State>,
    is_triggered: AtomicBool,
    triggered: Notify,
}

#[derive(Default)]
struct State {
    /// All but `next_run`, which is worked out when it is asked for.
    status: TickStatus,
    next: Option<Due>,
    /// How many of `max_runs` are used up.
    begun: u64,
}

impl Ticker {
    pub(super) fn new(every: Every) -> Self {
        let (is_triggered, triggered) = (AtomicBool::new(false), Notify::new());
        Self { every, state: Mutex::default(), is_triggered, triggered }
    }

    /// Whether there was a trigger since the last time it was asked.
    pub(super) fn take_trigger(&self) -> bool {
        self.is_triggered.swap(false, Ordering::AcqRel)
    }

    /// Waits for a trigger. It may be one that was taken already.
    pub(super) async fn triggered(&self) {
        self.triggered.notified().await;
    }

    /// How many of `max_runs` are used up.
    pub(super) fn begun(&self) -> u64 {
        lock(&self.state).begun
    }

    /// From here on `max_runs` counts anew.
    pub(super) fn begin_anew(&self) {
        lock(&self.state).begun = 0;
    }

    pub(super) fn plan(&self, next: Option<Due>, skipped: u64) {
        let mut state = lock(&self.state);
        state.next = next;
        state.status.skipped = state.status.skipped.saturating_add(skipped);
    }

    /// A call begins.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        let mut state = lock(&self.state);
        state.begun += 1;
        state.status.runs += 1;
        state.status.running += 1;
        state.status.last_started = Some(SystemTime::now());
        drop(state);
        Running { ticker: Arc::clone(self), since: Instant::now(), exit: ExitKind::Aborted }
    }
}

impl TickSource for Ticker {
    fn problem(&self) -> Option<(&'static str, &'static str)> {
        self.every.problem()
    }

    fn status(&self) -> Arc<TickStatus> {
        let now = Now::read();
        let state = lock(&self.state);
        let next_run = state.next.and_then(|due| due.on_the_wall(now));
        Arc::new(TickStatus { next_run, ..state.status.clone() })
    }

    fn trigger(&self) {
        self.is_triggered.store(true, Ordering::Release);
        self.triggered.notify_one();
    }
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticker").field(&self.status()).finish()
    }
}

/// A call that runs. It has ended when this is dropped.
pub(super) struct Running {
    ticker: Arc<Ticker>,
    since: Instant,
    exit: ExitKind,
}

impl Running {
    /// How long it may run.
    pub(super) fn limit(&self) -> Option<Duration> {
        self.ticker.every.tick_timeout
    }

    pub(super) fn end(mut self, exit: ExitKind) {
        self.exit = exit;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let exit = std::mem::replace(&mut self.exit, ExitKind::Aborted);
        let duration = self.since.elapsed();
        let mut state = lock(&self.ticker.state);
        let status = &mut state.status;
        status.running -= 1;
        status.last_duration = Some(duration);
        let before = status.last_exit.replace(exit.clone());
        let mut failure = None;
        if exit.is_failure() {
            status.failures += 1;
            status.consecutive_failures += 1;
            failure = status.last_failure.replace(exit);
        } else {
            status.consecutive_failures = 0;
        }
        // Errors are the user's: they are dropped outside of the lock.
        drop(state);
        drop((before, failure));
    }
}
