//! [`run_blocking`] and [`BlockingPool`]: work that blocks, on the blocking threads of tokio.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::error::OffloadError;
use super::limiter::CapacityLimiter;
use super::methods::pool_methods;
use super::workers::{KeepAlive, Pool, Runtimes, Source, WorkersConfig};

/// How many tasks of a pool run at a time if it was not told: as many as in Starlette.
const RUNNING: usize = 40;
/// With work a worker leaves its thread to others as seldom as makes no difference to it, without work soon.
const STAY: KeepAlive =
    KeepAlive { shift: Duration::from_millis(10), looks: 1, linger: Some(Duration::from_millis(20)) };

static GLOBAL: LazyLock<BlockingPool> = LazyLock::new(|| BlockingPool::new("default"));

/// Runs work that blocks, 40 at a time, and waits for its result: `run_in_threadpool` of FastAPI, `asyncio.to_thread`.
///
/// It is [`BlockingPool::global`]'s [`run`](BlockingPool::run), with the same rules. Any number of others wait: where they
/// must not, make a pool with a [bound](BlockingPoolBuilder::max_queued).
///
/// # Errors
///
/// As [`BlockingPool::run`].
///
/// # Cancel safety
///
/// As [`TaskFuture`](super::TaskFuture): dropped before the work has begun, it never runs.
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

/// Runs work that blocks on the blocking threads of the tokio runtime that it comes from, so many at a time.
///
/// Copies are the same pool.
#[derive(Clone, Debug)]
pub struct BlockingPool(pub(super) Arc<Pool>);

/// Makes a [`BlockingPool`]. Made by [`BlockingPool::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct BlockingPoolBuilder {
    name: &'static str,
    limiter: Option<Arc<CapacityLimiter>>,
    max_queued: usize,
    queue_timeout: Option<Duration>,
}

impl BlockingPool {
    /// A pool that runs 40 tasks at a time, and lets any number of others wait.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self::builder(name).build()
    }

    /// A pool with other limits. Its name appears in errors and statistics.
    pub fn builder(name: &'static str) -> BlockingPoolBuilder {
        BlockingPoolBuilder { name, limiter: None, max_queued: usize::MAX, queue_timeout: None }
    }

    /// The pool of [`run_blocking`].
    #[must_use]
    pub fn global() -> &'static Self {
        &GLOBAL
    }

    /// How many tasks may run at a time. It can be changed at any time, and shared with other pools.
    ///
    /// In its statistics who waits is the pool, once for each runtime, and not each task:
    /// [`statistics`](Self::statistics) of the pool has those.
    #[must_use]
    pub fn limiter(&self) -> &Arc<CapacityLimiter> {
        &self.0.rules.limiter
    }
}

pool_methods!(BlockingPool);

impl BlockingPoolBuilder {
    /// How many tasks run at a time. Default: 40. The runtime has 512 threads for them and all others that block, unless it
    /// was told [otherwise](tokio::runtime::Builder::max_blocking_threads).
    pub fn max_running(self, tasks: usize) -> Self {
        self.limiter(Arc::new(CapacityLimiter::new(tasks)))
    }

    /// A limiter that others may have, too.
    pub fn limiter(mut self, limiter: Arc<CapacityLimiter>) -> Self {
        self.limiter = Some(limiter);
        self
    }

    /// How many tasks may wait for a thread, from all runtimes together; others fail with [`OffloadError::Full`]. 0: who finds
    /// no token free fails at once. Default: any number.
    pub fn max_queued(mut self, tasks: usize) -> Self {
        self.max_queued = tasks;
        self
    }

    /// How long a task waits for a thread if it does not [say](super::Task::queue_timeout) so itself. Default: for ever.
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.queue_timeout = Some(limit);
        self
    }

    /// Makes the pool. Threads are taken when there is work.
    #[must_use]
    pub fn build(self) -> BlockingPool {
        let Self { name, limiter, max_queued, queue_timeout } = self;
        let limiter = limiter.unwrap_or_else(|| Arc::new(CapacityLimiter::new(RUNNING)));
        let rules = Arc::new(WorkersConfig::new(name, limiter, max_queued, STAY));
        BlockingPool(Arc::new(Pool { rules, queue_timeout, source: Source::Runtimes(Runtimes::default()) }))
    }
}
