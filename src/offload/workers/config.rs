//! [`WorkersConfig`], what a pool was configured with, and [`KeepAlive`], how long its workers keep their threads.

use std::borrow::Cow;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::workers::Workers;
use crate::offload::error::OffloadErrorKind;
use crate::offload::limiter::SharedLimiter;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// The default of [`WorkersConfig::stack_size`]: only address space is reserved, and a thread takes as much memory as it
/// has ever used. The standard library's 2 MiB are too small for code that works on a runtime with larger stacks, and
/// the global pools have no setting.
const DEFAULT_STACK_SIZE: usize = if usize::BITS >= 64 { 64 << 20 } else { 4 << 20 };

/// What all [`Workers`] of a pool share.
#[derive(Debug)]
pub(crate) struct WorkersConfig {
    pub(crate) pool: Cow<'static, str>,
    pub(crate) limiter: SharedLimiter,
    /// How many tasks may wait, in all workers of the pool together. `None` if there is no bound.
    max_queued: Option<usize>,
    /// How many queued tasks wait without the promise of a token. The number guards no other memory, so `Relaxed`
    /// suffices.
    waiting: AtomicUsize,
    pub(crate) keep_alive: KeepAlive,
    /// The size, in bytes, of the stacks of threads that the pool starts itself.
    pub(crate) stack_size: usize,
    /// The workers run on threads of the pool, which no runtime knows.
    pub(crate) has_own_threads: bool,
    is_closed: AtomicBool,
    /// Notified when workers of the closed pool are drained.
    pub(crate) drained: Notify,
}

/// How long a worker keeps its thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive {
    /// The time limit while tasks are queued. After that the worker gives its thread back between two tasks, and the
    /// next free thread takes over: other code waits for these threads, too.
    pub(crate) max_busy: Duration,
    /// How many times a worker looks for queued tasks before it becomes idle, or leaves its thread.
    pub(crate) spins: u32,
    /// How long the worker then stays idle. With `None`, the worker leaves its thread immediately.
    pub(crate) idle_timeout: Option<Duration>,
}

impl WorkersConfig {
    pub(crate) fn new(
        pool: Cow<'static, str>,
        limiter: SharedLimiter,
        max_queued: Option<usize>,
        keep_alive: KeepAlive,
    ) -> Self {
        let (waiting, is_closed) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self {
            pool,
            limiter,
            max_queued,
            waiting,
            keep_alive,
            stack_size: DEFAULT_STACK_SIZE,
            has_own_threads: false,
            is_closed,
            drained: Notify::new(),
        }
    }

    pub(crate) fn with_stack_size(self, stack_size: Option<usize>) -> Self {
        Self { stack_size: stack_size.unwrap_or(DEFAULT_STACK_SIZE), ..self }
    }

    #[cfg(feature = "cpu")]
    pub(crate) fn with_own_threads(self) -> Self {
        Self { has_own_threads: true, ..self }
    }

    /// Closes the pool, with all of its workers. From now on the pool accepts no tasks and no other workers.
    ///
    /// `registered` may be called while other workers are being registered. This side sets the flag and then reads the
    /// registry; the registration adds its workers and then reads the flag. The fence between the two steps pairs with
    /// the one in [`is_closed_after_registration`](Self::is_closed_after_registration): at least one side sees the
    /// other.
    pub(super) fn close(&self, registered: impl FnOnce() -> Vec<Arc<Workers>>) {
        self.is_closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        registered().iter().for_each(|workers| workers.close(OffloadErrorKind::Closed));
        self.notify_drained();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Returns `true` if the pool was closed, perhaps by a caller that did not see the workers just registered.
    pub(super) fn is_closed_after_registration(&self) -> bool {
        // Pairs with the fence in `close`.
        fence(Ordering::SeqCst);
        self.is_closed()
    }

    /// Wakes the callers of `drained()`, which then check the pool.
    pub(super) fn notify_drained(&self) {
        self.drained.notify_waiters();
    }

    /// Identifies the limiter. A task that holds a token of a limiter must not wait for another token of the same one.
    pub(crate) fn limiter_id(&self) -> usize {
        ptr::from_ref(&*self.limiter).addr()
    }

    /// Identifies the pool.
    pub(crate) fn pool_id(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    /// Counts one more waiting task if the bound allows it. Otherwise returns how many tasks are waiting, in all workers
    /// of the pool.
    pub(super) fn try_count_waiting(&self, ignores_bound: bool) -> Result<(), usize> {
        let bound = self.max_queued.filter(|_| !ignores_bound).unwrap_or(usize::MAX);
        let count = |waiting| (waiting < bound).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).map(drop)
    }

    /// Records that `before` tasks of one runtime's workers were waiting, and `now` tasks are.
    pub(super) fn recount_waiting(&self, before: usize, now: usize) {
        if now != before {
            // Wraps if there are fewer tasks.
            self.waiting.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }
}
