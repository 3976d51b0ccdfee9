//! [`run_cpu`] and [`CpuPool`]: work that computes, on a rayon pool.

use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::Duration;

use rayon_core::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::error::OffloadError;
use super::limiter::CapacityLimiter;
use super::methods::pool_methods;
use super::workers::{KeepAlive, Pool, Source, Threads, Worker, Workers, WorkersConfig};

/// A thread is soon needed for what others do in parallel: while a worker has it, rayon can't use it. So it is kept for a
/// moment, until the next task of a caller that has one at once, as rayon looks for work itself before a thread sleeps.
const STAY: KeepAlive = KeepAlive { shift: Duration::from_millis(1), looks: 32, linger: None };

static GLOBAL: LazyLock<CpuPool> = LazyLock::new(|| {
    CpuPool::builder("cpu").build().expect("the threads of the CPU pool can be started, as those of the runtime could")
});

/// Runs work that computes, on as many threads as the machine has processors, and waits for its result.
///
/// It is [`CpuPool::global`]'s [`run`](CpuPool::run), with the same rules.
///
/// # Errors
///
/// As [`CpuPool::run`].
///
/// # Panics
///
/// If the threads of the global pool can't be started.
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

/// Runs work that computes on threads of its own, with rayon: `par_iter` inside of it stays on them.
///
/// It needs no tokio runtime. Copies are the same pool; its threads end with the last one.
#[derive(Clone, Debug)]
pub struct CpuPool(Arc<Pool>, Arc<ThreadPool>);

/// Makes a [`CpuPool`]. Made by [`CpuPool::builder`].
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
    /// A pool with as many threads as the machine has processors, which lets any number of tasks wait.
    ///
    /// # Errors
    ///
    /// If its threads can't be started.
    pub fn new(name: &'static str) -> Result<Self, ThreadPoolBuildError> {
        Self::builder(name).build()
    }

    /// A pool with other limits. Its name appears in errors and statistics, and its threads have it.
    pub fn builder(name: &'static str) -> CpuPoolBuilder {
        CpuPoolBuilder { name, threads: None, shared: None, max_queued: usize::MAX, queue_timeout: None }
    }

    /// The pool of [`run_cpu`].
    ///
    /// # Panics
    ///
    /// If it is used for the first time, and its threads can't be started.
    #[must_use]
    pub fn global() -> &'static Self {
        &GLOBAL
    }

    /// How many tasks may run at a time: as many as there are threads, unless it is changed. With fewer, `par_iter` in those
    /// that run has the other threads for itself. With more, those that have a token wait for a thread, and a pool that
    /// shares the threads waits behind them.
    #[must_use]
    pub fn limiter(&self) -> &Arc<CapacityLimiter> {
        &self.0.rules.limiter
    }
}

pool_methods!(CpuPool);

impl CpuPoolBuilder {
    /// How many threads it has. Default: as many as the machine has processors, as far as the process may use them.
    pub fn threads(mut self, threads: NonZero<usize>) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Takes the threads and the limiter of another pool instead of its own: then the two of them run as many tasks as that
    /// one, and each has a queue, a bound and an end for itself. [`threads`](Self::threads) is not asked.
    pub fn share_threads(mut self, with: &CpuPool) -> Self {
        self.shared = Some(with.clone());
        self
    }

    /// How many tasks may wait for a thread; others fail with [`OffloadError::Full`]. 0: who finds no thread free fails at
    /// once. Default: any number.
    pub fn max_queued(mut self, tasks: usize) -> Self {
        self.max_queued = tasks;
        self
    }

    /// How long a task waits for a thread if it does not [say](super::Task::queue_timeout) so itself. Default: for ever.
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.queue_timeout = Some(limit);
        self
    }

    /// Starts the threads, unless it shares those of another pool.
    ///
    /// # Errors
    ///
    /// If they can't be started.
    pub fn build(self) -> Result<CpuPool, ThreadPoolBuildError> {
        let Self { name, threads, shared, max_queued, queue_timeout } = self;
        let (limiter, rayon) = match shared {
            Some(CpuPool(pool, rayon)) => (Arc::clone(&pool.rules.limiter), rayon),
            None => {
                let threads = threads.or(available_parallelism().ok()).map_or(1, NonZero::get);
                let named = move |index| format!("{name}-{index}");
                let rayon = ThreadPoolBuilder::new().num_threads(threads).thread_name(named).build()?;
                (Arc::new(CapacityLimiter::new(threads)), Arc::new(rayon))
            }
        };
        let rules = Arc::new(WorkersConfig::new(name, limiter, max_queued, STAY));
        let crew = Workers::new(Arc::clone(&rules), Box::new(OfRayon(Arc::clone(&rayon))));
        Ok(CpuPool(Arc::new(Pool { rules, queue_timeout, source: Source::Own(crew) }), rayon))
    }
}

/// The threads of a rayon pool.
struct OfRayon(Arc<ThreadPool>);

impl Threads for OfRayon {
    fn begin(&self, worker: Worker) -> Result<(), Worker> {
        // In the order in which they come, as far as they come from outside. What comes from one of its own threads goes first.
        self.0.spawn_fifo(|| worker.work());
        Ok(())
    }

    fn is_here(&self) -> bool {
        self.0.current_thread_index().is_some()
    }
}
