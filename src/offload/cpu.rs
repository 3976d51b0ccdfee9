//! [`run_cpu`] and [`CpuPool`]: CPU-bound work, on a rayon pool.

use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::Duration;

use rayon_core::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::error::OffloadError;
use super::limiter::{CapacityLimiter, SharedLimiter};
use super::methods::pool_methods;
use super::workers::{KeepAlive, Pool, Worker, WorkerSource, WorkerThreads, Workers, WorkersConfig};

/// While a worker keeps a thread, rayon can't use the thread for parallel parts of other tasks. So the worker keeps the
/// thread only briefly: long enough for a caller that submits its next task immediately. rayon also searches for work
/// before a thread sleeps.
const KEEP_ALIVE: KeepAlive = KeepAlive { max_busy: Duration::from_millis(1), spins: 32, idle_timeout: None };

static GLOBAL: LazyLock<CpuPool> = LazyLock::new(|| {
    CpuPool::builder("cpu")
        .build()
        .expect("the threads of the global CPU pool must start: raise the thread limit of the process")
});

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

/// Builds a [`CpuPool`]. Created by [`CpuPool::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct CpuPoolBuilder {
    name: &'static str,
    threads: Option<NonZero<usize>>,
    shared: Option<CpuPool>,
    max_queued: usize,
    queue_timeout: Option<Duration>,
}

impl CpuPool {
    /// Creates a pool with as many threads as the machine has processors, and an unbounded queue.
    ///
    /// # Errors
    ///
    /// Returns an error if the threads can't be started.
    pub fn new(name: &'static str) -> Result<Self, ThreadPoolBuildError> {
        Self::builder(name).build()
    }

    /// Returns a builder for a pool with other limits. The name appears in errors and statistics, and in thread names.
    pub fn builder(name: &'static str) -> CpuPoolBuilder {
        CpuPoolBuilder { name, threads: None, shared: None, max_queued: usize::MAX, queue_timeout: None }
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

impl CpuPoolBuilder {
    /// Sets the number of threads. Default: the number of processors that the process may use.
    pub fn threads(mut self, threads: NonZero<usize>) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Shares the threads and the limiter of another pool. Together, the two pools run as many tasks as that pool
    /// alone. Each pool has its own queue and bound, and closes separately. The value of [`threads`](Self::threads) is
    /// then ignored.
    pub fn share_threads(mut self, with: &CpuPool) -> Self {
        self.shared = Some(with.clone());
        self
    }

    /// Sets how many tasks may be queued. Further tasks fail with [`OffloadError::Full`]. With 0, a task fails
    /// immediately if no thread is free. Default: unbounded.
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

    /// Creates the pool, and starts its threads unless it shares those of another pool.
    ///
    /// # Errors
    ///
    /// Returns an error if the threads can't be started.
    pub fn build(self) -> Result<CpuPool, ThreadPoolBuildError> {
        let Self { name, threads, shared, max_queued, queue_timeout } = self;
        let (limiter, rayon) = match shared {
            Some(CpuPool(pool, rayon)) => (pool.config.limiter.clone(), rayon),
            None => {
                let threads = threads.or(available_parallelism().ok()).map_or(1, NonZero::get);
                let thread_name = move |index| format!("{name}-{index}");
                let rayon = ThreadPoolBuilder::new().num_threads(threads).thread_name(thread_name).build()?;
                (Arc::new(CapacityLimiter::new(threads)).into(), Arc::new(rayon))
            }
        };
        let config = Arc::new(WorkersConfig::new(name, limiter, max_queued, KEEP_ALIVE));
        let workers = Workers::new(Arc::clone(&config), Box::new(RayonThreads(Arc::clone(&rayon))));
        Ok(CpuPool(Arc::new(Pool { config, queue_timeout, workers: WorkerSource::Own(workers) }), rayon))
    }
}

/// The threads of a rayon pool.
struct RayonThreads(Arc<ThreadPool>);

impl WorkerThreads for RayonThreads {
    fn spawn(&self, worker: Worker) -> Result<(), Worker> {
        // Workers that were spawned from outside start in FIFO order. rayon runs the jobs of its own threads before
        // these workers.
        self.0.spawn_fifo(|| worker.run());
        Ok(())
    }

    fn contains_current_thread(&self) -> bool {
        self.0.current_thread_index().is_some()
    }
}
