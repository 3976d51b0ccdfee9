//! [`run_cpu`] and [`CpuPool`]: CPU-bound work, on threads of the pool's own.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::builder::{CpuPoolBuilder, PoolSettings};
use super::error::OffloadError;
use super::limiter::SharedLimiter;
use super::methods::pool_methods;
use super::workers::{CpuThreads, KeepAlive, Pool, WorkerSource, Workers, WorkersConfig};

/// The threads belong to the pool, so a busy worker never gives up its thread, and an idle one stays as long as an idle
/// thread of tokio. A worker searches long enough for a caller that submits its next task immediately.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { max_busy: Duration::MAX, spins: 256, idle_timeout: Some(Duration::from_secs(10)) };

static GLOBAL: LazyLock<CpuPool> = LazyLock::new(|| CpuPool::new("cpu"));

/// Runs CPU-bound work, on as many threads as the machine has processors, and waits for the result.
///
/// This is [`run`](CpuPool::run) of [`CpuPool::global`]. A `par_iter` inside the work runs its parts on rayon's
/// threads, as it does everywhere: see [`CpuPool`].
///
/// # Errors
///
/// The same as [`CpuPool::run`].
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
/// let primes = onelane::run_cpu(|| (2..10_000_u32).filter(|n| (2..*n).all(|d| n % d != 0)).count()).await?;
/// assert_eq!(primes, 1_229);
/// # Ok(())
/// # }
/// ```
pub async fn run_cpu<F, T>(work: F) -> Result<T, OffloadError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    GLOBAL.run(work).await
}

/// Runs CPU-bound work on the pool's own threads, a limited number of tasks at a time.
///
/// The pool needs no tokio runtime. It starts a thread when a task needs one. A thread that has been idle for 10 s
/// ends, and the idle threads end with the last handle. Clones are handles to the same pool.
///
/// # Parallel parts
///
/// A task may use rayon. The parts of a `par_iter` run on rayon's global pool, or on the pool whose `install` the task
/// calls, and never on a thread that runs tasks: a task that waits for its parts neither runs another task meanwhile
/// nor waits for one. A part is outside of its task, like the work of any other thread: it has no
/// [`TaskContext::current`](super::TaskContext::current), no `tracing` span, no runtime, and is not inside the guards
/// of the task's caller. What a part needs, it takes from the closure:
///
/// ```
/// use onelane::CpuPool;
/// use onelane::offload::{Cancelled, TaskContext};
/// use rayon::prelude::*;
///
/// fn total(prices: &[u64], cx: &TaskContext) -> Result<u64, Cancelled> {
///     prices.par_chunks(1_000).map(|part| cx.checkpoint().map(|()| part.iter().sum::<u64>())).sum()
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let prices: Vec<u64> = (0..10_000).collect();
/// assert_eq!(CpuPool::global().task(move |cx| total(&prices, cx)).await??, 49_995_000);
/// # Ok(())
/// # }
/// ```
///
/// A part that blocks on a task of the same pool waits like any other caller, and so waits forever if the tokens are
/// held by tasks that wait for their parts.
#[derive(Clone, Debug)]
pub struct CpuPool(Arc<Pool>);

impl CpuPool {
    /// Creates a pool that runs as many tasks at a time as the machine has processors, with an unbounded queue.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self::builder(name).build()
    }

    /// Returns a builder for a pool with other limits. The name, which may come from a configuration, appears in errors
    /// and statistics, and in thread names.
    pub fn builder(name: impl Into<Cow<'static, str>>) -> CpuPoolBuilder {
        CpuPoolBuilder::new(name.into())
    }

    pub(super) fn from_settings(settings: PoolSettings, limiter: SharedLimiter) -> Self {
        let PoolSettings { name, max_queued, max_wait, stack_size } = settings;
        let config = WorkersConfig::new(name, limiter, max_queued, KEEP_ALIVE);
        let config = Arc::new(config.with_stack_size(stack_size).with_own_threads());
        let threads = CpuThreads::new(&config.pool, config.stack_size);
        let workers = WorkerSource::Own(Workers::new(Arc::clone(&config), Box::new(threads)));
        Self(Arc::new(Pool { config, max_wait, workers }))
    }

    #[cfg(feature = "process")]
    pub(super) fn parts(&self) -> Arc<Pool> {
        Arc::clone(&self.0)
    }

    /// Returns the pool of [`run_cpu`].
    #[must_use]
    pub fn global() -> &'static Self {
        &GLOBAL
    }

    /// Returns the limiter that bounds how many tasks run at a time, and with it the number of threads. The total can
    /// change at any time, and other pools can share the limiter.
    ///
    /// In the limiter's statistics, the waiting callers are pools, not tasks. The [`stats`](Self::stats) of the pool
    /// count the tasks.
    #[must_use]
    pub fn limiter(&self) -> &SharedLimiter {
        &self.0.config.limiter
    }
}

pool_methods!(CpuPool);
