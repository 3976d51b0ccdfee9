//! [`run_blocking`] and [`BlockingPool`]: blocking work, on the blocking threads of tokio.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::error::OffloadError;
use super::limiter::{CapacityLimiter, SharedLimiter};
use super::methods::pool_methods;
use super::workers::{KeepAlive, Pool, Runtimes, WorkerSource, WorkersConfig};

/// The default of `max_running`, as in Starlette.
const MAX_RUNNING: usize = 40;
/// A busy worker gives up its thread so rarely that the cost is negligible. An idle worker gives up its thread soon.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { max_busy: Duration::from_millis(10), spins: 1, idle_timeout: Some(Duration::from_millis(20)) };

static GLOBAL: LazyLock<BlockingPool> = LazyLock::new(|| BlockingPool::new("default"));

/// Runs blocking work, at most 40 tasks at a time, and waits for the result. The function corresponds to
/// `run_in_threadpool` in FastAPI, and to `asyncio.to_thread`.
///
/// This is [`run`](BlockingPool::run) of [`BlockingPool::global`]. The queue of that pool is unbounded. For a bounded
/// queue, create a pool with [`max_queued`](BlockingPoolBuilder::max_queued).
///
/// # Errors
///
/// The same as [`BlockingPool::run`].
///
/// # Cancel safety
///
/// The same as [`TaskFuture`](super::TaskFuture): if the future is dropped before the work has started, the work never
/// runs.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), onelane::offload::OffloadError> {
/// let sum = onelane::run_blocking(|| (1..=10).sum::<u32>()).await?;
/// assert_eq!(sum, 55);
/// # Ok(())
/// # }
/// ```
pub async fn run_blocking<F, T>(work: F) -> Result<T, OffloadError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    GLOBAL.run(work).await
}

/// Runs blocking work on the blocking threads of the caller's tokio runtime, a limited number of tasks at a time.
///
/// Clones are handles to the same pool.
#[derive(Clone, Debug)]
pub struct BlockingPool(pub(super) Arc<Pool>);

/// Builds a [`BlockingPool`]. Created by [`BlockingPool::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct BlockingPoolBuilder {
    name: &'static str,
    limiter: Option<SharedLimiter>,
    max_queued: usize,
    queue_timeout: Option<Duration>,
}

impl BlockingPool {
    /// Creates a pool that runs 40 tasks at a time, with an unbounded queue.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self::builder(name).build()
    }

    /// Returns a builder for a pool with other limits. The name appears in errors and statistics.
    pub fn builder(name: &'static str) -> BlockingPoolBuilder {
        BlockingPoolBuilder { name, limiter: None, max_queued: usize::MAX, queue_timeout: None }
    }

    /// Returns the pool of [`run_blocking`].
    #[must_use]
    pub fn global() -> &'static Self {
        &GLOBAL
    }

    /// Returns the limiter that bounds how many tasks run at a time. The total can change at any time, and other pools
    /// can share the limiter.
    ///
    /// In the limiter's statistics, the waiting callers are pools, not tasks. A pool counts once for each runtime. The
    /// [`statistics`](Self::statistics) of the pool count the tasks.
    #[must_use]
    pub fn limiter(&self) -> &SharedLimiter {
        &self.0.config.limiter
    }
}

pool_methods!(BlockingPool);

impl BlockingPoolBuilder {
    /// Sets how many tasks run at a time. Default: 40. The runtime has 512 threads for these and all other blocking
    /// calls, unless it was [configured](tokio::runtime::Builder::max_blocking_threads) otherwise.
    pub fn max_running(self, tasks: usize) -> Self {
        self.limiter(Arc::new(CapacityLimiter::new(tasks)))
    }

    /// Sets a limiter, which other pools may share.
    pub fn limiter(mut self, limiter: impl Into<SharedLimiter>) -> Self {
        self.limiter = Some(limiter.into());
        self
    }

    /// Sets how many tasks may be queued, across all runtimes. Further tasks fail with [`OffloadError::Full`]. With 0,
    /// a task fails immediately if no token is free. Default: unbounded.
    pub fn max_queued(mut self, tasks: usize) -> Self {
        self.max_queued = tasks;
        self
    }

    /// Sets how long a task waits for a thread if it has no [limit](super::Task::queue_timeout) of its own. Default: no
    /// limit.
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.queue_timeout = Some(limit);
        self
    }

    /// Creates the pool. The pool takes threads only when there is work.
    #[must_use]
    pub fn build(self) -> BlockingPool {
        let Self { name, limiter, max_queued, queue_timeout } = self;
        let limiter = limiter.unwrap_or_else(|| Arc::new(CapacityLimiter::new(MAX_RUNNING)).into());
        let config = Arc::new(WorkersConfig::new(name, limiter, max_queued, KEEP_ALIVE));
        BlockingPool(Arc::new(Pool { config, queue_timeout, workers: WorkerSource::PerRuntime(Runtimes::default()) }))
    }
}
