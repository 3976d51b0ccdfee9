//! [`Rules`], what a crew works by, and [`Threads`], where its threads come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::worker::Worker;
use crate::offload::limiter::CapacityLimiter;

/// What a crew works by.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) pool: &'static str,
    /// What tells pools apart.
    pub(crate) id: usize,
    pub(crate) limiter: Arc<CapacityLimiter>,
    /// How many tasks may wait.
    pub(crate) max_queued: usize,
    /// How long a worker without work stays. `None`: it goes at once, and runs one task only.
    pub(crate) linger: Option<Duration>,
    /// Told when a crew that was closed runs nothing any more.
    pub(crate) drained: Notify,
}

impl Rules {
    pub(crate) fn new(
        pool: &'static str,
        limiter: Arc<CapacityLimiter>,
        max_queued: usize,
        linger: Option<Duration>,
    ) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self { pool, id: NEXT.fetch_add(1, Ordering::Relaxed), limiter, max_queued, linger, drained: Notify::new() }
    }
}

/// Where the threads come from.
pub(crate) trait Threads: Send + Sync {
    /// Has a worker work on a thread. If there is none to be had, it is dropped.
    fn begin(&self, worker: Worker);

    /// Whether the caller is on one of them.
    fn is_here(&self) -> bool {
        false
    }
}
