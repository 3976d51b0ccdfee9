//! [`Heartbeat`], which records when a service sent its last heartbeat.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The last heartbeat of a service. The service writes it; its supervisor and the status read it.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    epoch: Instant,
    /// Nanoseconds since `epoch`, which is enough for 584 years. It orders nothing, so `Relaxed` suffices.
    last: AtomicU64,
}

impl Heartbeat {
    pub(crate) fn new(now: Instant) -> Self {
        Self { epoch: now, last: AtomicU64::new(0) }
    }

    pub(crate) fn record(&self, now: Instant) {
        let nanos = now.duration_since(self.epoch).as_nanos();
        self.last.fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}
