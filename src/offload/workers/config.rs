//! [`WorkersConfig`], what a crew works by, and [`Threads`], where its threads come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::time::Duration;

use tokio::sync::Notify;

use super::worker::Worker;
use crate::offload::limiter::CapacityLimiter;
use crate::panic::catch;

/// What a crew works by.
#[derive(Debug)]
pub(crate) struct WorkersConfig {
    pub(crate) pool: &'static str,
    pub(crate) limiter: Arc<CapacityLimiter>,
    /// How many tasks may wait, in all crews of the pool.
    pub(crate) max_queued: usize,
    /// How many do. Nothing else is read because of it, so `Relaxed` does.
    queued: AtomicUsize,
    pub(crate) stay: KeepAlive,
    /// Whether the pool was closed.
    is_closed: AtomicBool,
    /// Told when a crew that was closed runs nothing any more.
    pub(crate) drained: Notify,
}

/// How long a worker stays on its thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive {
    /// With work. Then it gives its thread back between two tasks, and takes the next one that is free: others wait for them,
    /// too.
    pub(crate) shift: Duration,
    /// How often it looks for work when it has none, and keeps the processor.
    pub(crate) looks: u32,
    /// After that, as an idle one. `None`: it goes at once.
    pub(crate) linger: Option<Duration>,
}

impl WorkersConfig {
    pub(crate) fn new(pool: &'static str, limiter: Arc<CapacityLimiter>, max_queued: usize, stay: KeepAlive) -> Self {
        let (queued, is_closed) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { pool, limiter, max_queued, queued, stay, is_closed, drained: Notify::new() }
    }

    /// There will be no other tasks and no other crews.
    ///
    /// Said before the crews are closed, and asked after a new one was listed, with a fence each: so either is seen by the
    /// other.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Tells who waits for the end to look.
    pub(super) fn tell_drained(&self) {
        // Wakers are foreign code.
        let _ = catch(|| self.drained.notify_waiters());
    }

    /// What tells limiters apart: who holds a token of one must not wait for another one of the same.
    pub(crate) fn limiter_id(&self) -> usize {
        Arc::as_ptr(&self.limiter).addr()
    }

    /// Whether one more may wait, beside so many for whom a thread comes. Then it is counted.
    pub(super) fn admits(&self, beside: usize) -> bool {
        let is_admitted = self.queued.fetch_add(1, Ordering::Relaxed) < self.max_queued.saturating_add(beside);
        if !is_admitted {
            self.forget(1);
        }
        is_admitted
    }

    /// How many wait, in all crews.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// So many wait no longer.
    pub(super) fn forget(&self, tasks: usize) {
        self.queued.fetch_sub(tasks, Ordering::Relaxed);
    }
}

/// Where the threads come from.
pub(crate) trait Threads: Send + Sync {
    /// Has a worker work on a thread. If there are none any more, it is dropped.
    ///
    /// # Errors
    ///
    /// The worker, if there is none for it at the moment.
    fn begin(&self, worker: Worker) -> Result<(), Worker>;

    /// Whether the caller is on one of them.
    fn is_here(&self) -> bool {
        false
    }
}
