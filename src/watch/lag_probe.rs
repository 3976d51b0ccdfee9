//! [`LagProbe`], which measures how long a task waits for its poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::slot::register_thread;

/// The interval between measurements while the runtime is busy.
const INTERVAL: Duration = Duration::from_millis(100);

/// Spawns tasks on a runtime, one at a time, and measures how long each task waits for its poll.
#[derive(Debug)]
pub(super) struct LagProbe {
    next: Instant,
    spawned: Instant,
    /// The outcome of the last task: its lag in nanoseconds, or one of the constants below.
    outcome: Arc<AtomicU64>,
    lag: Duration,
}

const PENDING: u64 = u64::MAX;
/// The runtime has shut down, and dropped the task.
const DROPPED: u64 = u64::MAX - 1;

struct ProbeTask {
    spawned: Instant,
    outcome: Arc<AtomicU64>,
}

impl LagProbe {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, spawned: now, outcome: Arc::new(AtomicU64::new(0)), lag: Duration::ZERO }
    }

    /// Returns the result of the last measurement. While a measurement is pending, returns how long its task has
    /// waited.
    pub(super) fn lag(&self) -> Duration {
        self.lag
    }

    /// Begins a measurement if one is due and the last one has ended. An idle runtime is not measured: it would wake up
    /// only for the task, and poll the task immediately.
    pub(super) fn measure(&mut self, runtime: &Handle, is_idle: bool, now: Instant) {
        match self.outcome.load(Ordering::Acquire) {
            PENDING => self.lag = now.saturating_duration_since(self.spawned),
            DROPPED => {}
            nanos => {
                self.lag = if is_idle { Duration::ZERO } else { Duration::from_nanos(nanos) };
                if now >= self.next && !is_idle {
                    self.spawn(runtime, now);
                }
            }
        }
    }

    /// Returns `true` if the runtime dropped the last task without a poll, because the runtime has shut down.
    pub(super) fn is_dropped(&self) -> bool {
        self.outcome.load(Ordering::Acquire) == DROPPED
    }

    /// Returns `true` if the runtime has shut down. Spawns a task to find out, unless one is pending.
    pub(super) fn is_runtime_gone(&mut self, runtime: &Handle, now: Instant) -> bool {
        if self.outcome.load(Ordering::Acquire) != PENDING {
            self.spawn(runtime, now);
        }
        self.is_dropped()
    }

    /// Spawns a task. A runtime that has shut down drops the task before this function returns.
    fn spawn(&mut self, runtime: &Handle, now: Instant) {
        self.next = now + INTERVAL;
        self.spawned = now;
        self.outcome = Arc::new(AtomicU64::new(PENDING));
        let task = ProbeTask { spawned: now, outcome: Arc::clone(&self.outcome) };
        runtime.spawn(async move { task.is_polled() });
    }
}

impl ProbeTask {
    fn is_polled(&self) {
        let lag = u64::try_from(self.spawned.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.outcome.store(lag.min(DROPPED - 1), Ordering::Release);
        // From now on, the watch knows this thread.
        register_thread();
    }
}

impl Drop for ProbeTask {
    fn drop(&mut self) {
        let _ = self.outcome.compare_exchange(PENDING, DROPPED, Ordering::AcqRel, Ordering::Acquire);
    }
}
