//! [`LagProbe`], which measures how long a runtime takes to poll a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::slot::register_thread;

/// The interval between measurements while the runtime is busy.
const INTERVAL: Duration = Duration::from_millis(100);

/// Spawns a task on a runtime now and then, one at a time, and measures when it is polled.
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

    /// Returns the result of the last measurement. While one is pending, returns the time that it has taken so far.
    pub(super) fn lag(&self) -> Duration {
        self.lag
    }

    /// Begins a measurement if one is due and the last one has ended. An idle runtime is left alone: it would poll a
    /// task immediately, and wake only for that.
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

    /// Returns `true` if the last task found that the runtime has shut down.
    pub(super) fn is_dropped(&self) -> bool {
        self.outcome.load(Ordering::Acquire) == DROPPED
    }

    /// Returns `true` if the runtime has shut down.
    pub(super) fn is_runtime_gone(&mut self, runtime: &Handle, now: Instant) -> bool {
        if self.outcome.load(Ordering::Acquire) != PENDING {
            self.spawn(runtime, now);
        }
        self.is_dropped()
    }

    /// Spawns a task. A runtime that has shut down drops it before this function returns.
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
        // The watch can name this thread from now on.
        register_thread();
    }
}

impl Drop for ProbeTask {
    fn drop(&mut self) {
        let _ = self.outcome.compare_exchange(PENDING, DROPPED, Ordering::AcqRel, Ordering::Acquire);
    }
}
