//! [`run_blocking`] and [`BlockingPool`]: blocking work, on the blocking threads of tokio.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::builder::{BlockingPoolBuilder, PoolSettings};
use super::error::OffloadError;
use super::limiter::SharedLimiter;
use super::methods::pool_methods;
use super::workers::{KeepAlive, Pool, Runtimes, WorkerSource, WorkersConfig};

/// A busy worker gives up its thread so rarely that the cost is negligible. A worker without a task leaves its thread
/// at once: other code may wait for that thread, and tokio keeps it for the next worker. The spins cover a caller that
/// submits its next task immediately.
const KEEP_ALIVE: KeepAlive = KeepAlive { max_busy: Duration::from_millis(10), spins: 32, idle_timeout: None };

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

impl BlockingPool {
    /// Creates a pool that runs 40 tasks at a time, with an unbounded queue.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self::builder(name).build()
    }

    /// Returns a builder for a pool with other limits. The name, which may come from a configuration, appears in errors
    /// and statistics.
    pub fn builder(name: impl Into<Cow<'static, str>>) -> BlockingPoolBuilder {
        BlockingPoolBuilder::new(name.into())
    }

    pub(super) fn from_settings(settings: PoolSettings, limiter: SharedLimiter) -> Self {
        let PoolSettings { name, max_queued, max_wait, stack_size } = settings;
        let config = WorkersConfig::new(name, limiter, max_queued, KEEP_ALIVE).with_stack_size(stack_size);
        Self(Arc::new(Pool {
            config: Arc::new(config),
            max_wait,
            workers: WorkerSource::PerRuntime(Runtimes::default()),
        }))
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
    /// [`stats`](Self::stats) of the pool count the tasks.
    #[must_use]
    pub fn limiter(&self) -> &SharedLimiter {
        &self.0.config.limiter
    }
}

pool_methods!(BlockingPool);
