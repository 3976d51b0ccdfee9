//! [`LagProbe`], which measures how long the server's runtime takes to poll a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::background::status::RuntimeLag;

/// The interval between measurements while the runtime is busy.
const INTERVAL: Duration = Duration::from_millis(100);
/// The interval between checks that an idle runtime is still idle. Each check wakes a thread.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// A lag that is worth a warning.
const WARNING: Duration = Duration::from_millis(50);

/// Spawns a task on the server's runtime now and then, one at a time, and measures when it is polled.
#[derive(Debug)]
pub(super) struct LagProbe {
    server: Handle,
    lag: Arc<RuntimeLag>,
    pub(super) next: Instant,
    spawned: Instant,
    was_polled: Arc<AtomicBool>,
    has_warned: bool,
}

impl LagProbe {
    pub(super) fn new(server: Handle, lag: Arc<RuntimeLag>) -> Self {
        let now = Instant::now();
        Self {
            server,
            lag,
            next: now + INTERVAL,
            spawned: now,
            was_polled: Arc::new(AtomicBool::new(true)),
            has_warned: false,
        }
    }

    /// Begins a measurement if one is due and the last one has ended. If the last one is pending, records the time so
    /// far, and returns that time once if it is worth a warning.
    pub(super) fn measure(&mut self, now: Instant) -> Option<Duration> {
        if now < self.next {
            return None;
        }
        self.next = now + INTERVAL;
        if !self.was_polled.load(Ordering::Acquire) {
            let lag = now.duration_since(self.spawned);
            self.lag.set(lag);
            let warns = lag >= WARNING && !self.has_warned;
            self.has_warned |= warns;
            return warns.then_some(lag);
        }
        self.has_warned = false;
        if self.server_is_idle() {
            self.lag.set(Duration::ZERO);
            self.next = now + IDLE_INTERVAL;
            return None;
        }
        self.spawned = now;
        self.was_polled.store(false, Ordering::Relaxed);
        let (lag, was_polled) = (Arc::clone(&self.lag), Arc::clone(&self.was_polled));
        // If the runtime is gone, the task is dropped and the measurement stays pending: nothing runs there.
        self.server.spawn(async move {
            lag.set(Instant::now().duration_since(now));
            was_polled.store(true, Ordering::Release);
        });
        None
    }

    /// Returns `true` if all workers of the runtime are parked. A task would be polled immediately, and would wake a
    /// worker only for that.
    fn server_is_idle(&self) -> bool {
        let metrics = self.server.metrics();
        // The count starts unparked at 0, and each park and unpark adds one.
        (0..metrics.num_workers()).all(|worker| metrics.worker_park_unpark_count(worker) % 2 == 1)
    }
}
