//! [`run_cpu`] and [`CpuPool`]: CPU-bound work, on a rayon pool.

use std::borrow::Cow;
use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::Duration;

use rayon_core::{ThreadPool, ThreadPoolBuilder};

use super::builder::{CpuPoolBuilder, PoolSettings};
use super::error::{OffloadError, PoolBuildError};
use super::limiter::{CapacityLimiter, SharedLimiter};
use super::methods::pool_methods;
use super::workers::{KeepAlive, Pool, SpawnError, Worker, WorkerSource, WorkerThreads, Workers, WorkersConfig};

/// While a worker keeps a thread, rayon can't use the thread for parallel parts of other tasks. So the worker keeps the
/// thread only briefly: long enough for a caller that submits its next task immediately. rayon also searches for work
/// before a thread sleeps.
const KEEP_ALIVE: KeepAlive = KeepAlive { max_busy: Duration::from_millis(1), spins: 32, idle_timeout: None };

static GLOBAL: LazyLock<CpuPool> = LazyLock::new(|| CpuPool::new("cpu"));

/// Runs CPU-bound work, on as many threads as the machine has processors, and waits for the result.
///
/// This is [`run`](CpuPool::run) of [`CpuPool::global`].
///
/// # Errors
///
/// The same as [`CpuPool::run`].
///
/// # Panics
///
/// Panics if the threads of the global pool can't be started.
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

/// Runs CPU-bound work on the pool's own rayon threads. A `par_iter` inside a task stays on these threads.
///
/// The pool needs no tokio runtime. Clones are handles to the same pool, and the threads end with the last handle.
#[derive(Clone, Debug)]
pub struct CpuPool(Arc<Pool>, Arc<ThreadPool>);

/// Where the threads of a new pool come from.
pub(super) enum CpuThreads {
    /// They are started: this many, or as many as the machine has processors.
    New(Option<usize>),
    Shared(CpuPool),
}

impl CpuPool {
    /// Creates a pool with as many threads as the machine has processors, and an unbounded queue.
    ///
    /// # Panics
    ///
    /// Panics if the threads can't be started. [`try_build`](CpuPoolBuilder::try_build) of the builder returns an error
    /// instead.
    #[must_use]
    #[track_caller]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self::builder(name).build()
    }

    /// Returns a builder for a pool with other limits. The name, which may come from a configuration, appears in errors
    /// and statistics, and in thread names.
    pub fn builder(name: impl Into<Cow<'static, str>>) -> CpuPoolBuilder {
        CpuPoolBuilder::new(name.into())
    }

    pub(super) fn from_settings(settings: PoolSettings, threads: CpuThreads) -> Result<Self, PoolBuildError> {
        let PoolSettings { name, max_queued, max_wait } = settings;
        let (limiter, rayon) = match threads {
            CpuThreads::Shared(Self(pool, rayon)) => (pool.config.limiter.clone(), rayon),
            CpuThreads::New(threads) => {
                let threads = threads.unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get));
                let prefix = name.clone();
                let thread_name = move |index| format!("{prefix}-{index}");
                let rayon = ThreadPoolBuilder::new().num_threads(threads).thread_name(thread_name).build();
                let rayon = rayon.map_err(|error| PoolBuildError::threads(name.clone(), error))?;
                (Arc::new(CapacityLimiter::new(threads)).into(), Arc::new(rayon))
            }
        };
        let config = Arc::new(WorkersConfig::new(name, limiter, max_queued, KEEP_ALIVE));
        let workers = Workers::new(Arc::clone(&config), Box::new(RayonThreads(Arc::clone(&rayon))));
        Ok(Self(Arc::new(Pool { config, max_wait, workers: WorkerSource::Own(workers) }), rayon))
    }

    /// Returns the pool of [`run_cpu`].
    ///
    /// # Panics
    ///
    /// Panics if this is the first use of the pool, and its threads can't be started.
    #[must_use]
    pub fn global() -> &'static Self {
        &GLOBAL
    }

    /// Returns the limiter that bounds how many tasks run at a time. Its total is the number of threads, unless you
    /// change it. With a smaller total, `par_iter` in the running tasks has the other threads to itself. With a larger
    /// total, tasks that hold a token wait for a thread, and the tasks of a pool that shares the threads wait behind
    /// them.
    #[must_use]
    pub fn limiter(&self) -> &SharedLimiter {
        &self.0.config.limiter
    }
}

pool_methods!(CpuPool);

/// The threads of a rayon pool.
struct RayonThreads(Arc<ThreadPool>);

impl WorkerThreads for RayonThreads {
    fn spawn(&self, worker: Worker) -> Result<(), SpawnError> {
        // Workers that were spawned from outside start in FIFO order. rayon runs the jobs of its own threads before
        // these workers.
        self.0.spawn_fifo(|| worker.run());
        Ok(())
    }

    fn contains_current_thread(&self) -> bool {
        self.0.current_thread_index().is_some()
    }
}
