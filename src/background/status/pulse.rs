//! [`Pulse`], when a service has given its last sign of life.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The last heartbeat of a service, written by it and read by its supervisor and the status.
#[derive(Debug)]
pub(crate) struct Pulse {
    epoch: Instant,
    /// Nanoseconds since `epoch`: enough for 584 years. It orders nothing, so `Relaxed` does.
    last: AtomicU64,
}

impl Pulse {
    pub(crate) fn new(now: Instant) -> Self {
        Self { epoch: now, last: AtomicU64::new(0) }
    }

    pub(crate) fn beat(&self, now: Instant) {
        let nanos = now.duration_since(self.epoch).as_nanos();
        self.last.fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}
