//! [`ProcessPoolBuilder`], which builds process pools.

use std::borrow::Cow;
use std::time::Duration;

use super::platform::WorkerSet;
use super::pool::ProcessPool;
#[cfg(feature = "landlock")]
use super::sandbox::Sandbox;
use super::settings::ProcessSettings;
use crate::config_error::ConfigError;
use crate::offload::builder::CpuPoolBuilder;
use crate::offload::cpu::CpuPool;

/// Builds a [`ProcessPool`]. Created by [`ProcessPool::builder`].
///
/// The setters accept any value. [`build`](Self::build) panics if a value is out of range, and
/// [`try_build`](Self::try_build) returns an error, for values that come from a configuration.
///
/// ```
/// use onelane::ProcessPool;
/// use std::time::Duration;
///
/// let thumbnails = ProcessPool::builder("thumbnails")
///     .workers(2)
///     .max_queued(64)
///     .timeout(Duration::from_secs(10))
///     .memory_limit(1 << 30)
///     .build();
/// # assert_eq!(thumbnails.stats().tasks.max_running, 2);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct ProcessPoolBuilder {
    threads: CpuPoolBuilder,
    settings: ProcessSettings,
}

impl ProcessPoolBuilder {
    pub(super) fn new(name: Cow<'static, str>) -> Self {
        Self { threads: CpuPool::builder(name.clone()), settings: ProcessSettings::new(name) }
    }

    /// Sets how many tasks run at a time, each in its own worker. Default: the number of processors that the process
    /// may use.
    pub fn workers(mut self, workers: usize) -> Self {
        self.threads = self.threads.threads(workers);
        self
    }

    /// Sets how many tasks may be queued. Further tasks fail with
    /// [`Full`](crate::offload::OffloadErrorKind::Full). With 0, a task fails immediately if all workers are busy.
    /// Default: no bound.
    pub fn max_queued(mut self, tasks: usize) -> Self {
        self.threads = self.threads.max_queued(tasks);
        self
    }

    /// Sets how long a task waits for a worker if it has no [limit](super::ProcessTask::max_wait) of its own. Must be
    /// above zero. Default: no limit.
    pub fn max_wait(mut self, limit: Duration) -> Self {
        self.threads = self.threads.max_wait(limit);
        self
    }

    /// Sets how long a task may take, including its time in the queue, if it has no
    /// [limit](super::ProcessTask::timeout) of its own. Must be above zero. Default: no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.settings.timeout = Some(limit);
        self
    }

    /// Sets how long a worker may continue after the [timeout](Self::timeout) of its task. During that time the
    /// [`TaskContext`](crate::offload::TaskContext) of the task reports that the task is cancelled, and a task that
    /// returns still yields its result. If the caller leaves, the worker is killed at once. Default: zero.
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.settings.kill_grace = grace;
        self
    }

    /// Sets how much processor time a task may use if it has no [limit](super::ProcessTask::cpu_limit) of its own. Must
    /// be above zero. Default: no limit.
    pub fn cpu_limit(mut self, limit: Duration) -> Self {
        self.settings.cpu_limit = Some(limit);
        self
    }

    /// Sets how long a worker may take from its start until it is ready for its first task, including the time of the
    /// [initializer](Self::initializer). Must be above zero. Default: 10 s.
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.settings.start_timeout = limit;
        self
    }

    /// Sets a function that each worker calls before its first task, to load what its tasks share. A worker whose
    /// initializer panics is not used. After three such workers the task fails with
    /// [`NoWorker`](super::ProcessError::NoWorker).
    pub fn initializer(mut self, initializer: fn()) -> Self {
        self.settings.initializer = Some(initializer);
        self
    }

    /// Sets how much memory a worker may use, in bytes. The system refuses an allocation beyond the limit, which aborts
    /// a Rust program. A worker whose task exceeds the limit in another way, such as with a mapped file, is killed. In
    /// both cases the task fails with [`MemoryLimit`](super::ProcessError::MemoryLimit). Code that handles a refused
    /// allocation may fail with another error. The memory that a worker has
    /// when it starts, its stack, and the memory of processes that it starts do not count for the system's refusals. Must be above zero. Default: no limit.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.settings.memory_limit = Some(bytes);
        self
    }

    /// Sets how many tasks a worker runs before a new worker replaces it. Each worker runs a random number of tasks, up
    /// to a tenth below the limit, so that workers that start together don't end together. With 1, every task has a
    /// process of its own. Must be above zero. Default: no limit.
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> Self {
        self.settings.max_tasks_per_worker = Some(tasks);
        self
    }

    /// Sets how much physical memory a worker may keep after a task, in bytes. A worker that keeps more is replaced.
    /// Must be above zero. Default: no limit.
    pub fn recycle_above(mut self, bytes: u64) -> Self {
        self.settings.recycle_above = Some(bytes);
        self
    }

    /// Sets how long a worker waits for a task before it ends. The pool checks this once a second, or more often for a
    /// shorter limit. When all workers have ended, the other processes and threads of the pool end too, and the next
    /// task takes some milliseconds longer. Must be above zero. Default: 60 s.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.settings.idle_timeout = limit;
        self
    }

    /// Sets how many workers wait for tasks at any time, within the number of [workers](Self::workers). A thread of the
    /// pool starts these workers one after the other, from [`build`](Self::build) on, and when others get tasks, crash
    /// or end. If a worker can't be started, or dies while it waits, the pool tries again after a pause of 1 s at first
    /// and 60 s at most. Use this if the [initializer](Self::initializer) takes long. Must not be above the number of
    /// workers. Default: 0, so that a worker is started when a task finds none idle.
    pub fn min_idle(mut self, workers: usize) -> Self {
        self.settings.min_idle = workers;
        self
    }

    /// Sets how long the reply of a worker may be, in bytes, so that a worker whose memory is damaged can't use up the
    /// memory of the server. A task with a longer reply fails with [`BadReply`](super::ProcessError::BadReply). Must be
    /// above zero. Default: 256 MiB.
    pub fn max_reply(mut self, bytes: usize) -> Self {
        self.settings.max_reply = bytes;
        self
    }

    /// Sets whether the server copies the standard error of its workers to its own. The server does not read the output
    /// of a worker that is idle. Default: `true`.
    pub fn forward_stderr(mut self, forwards: bool) -> Self {
        self.settings.forwards_stderr = forwards;
        self
    }

    /// Starts workers without the server's environment variables, which may contain passwords.
    pub fn clear_environment(mut self) -> Self {
        self.settings.clears_environment = true;
        self
    }

    /// Sets the sandbox that each worker enters before its first task. Default: no sandbox.
    #[cfg(feature = "landlock")]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.settings.sandbox = Some(sandbox);
        self
    }

    /// Builds the pool. Except for the workers of [`min_idle`](Self::min_idle), a worker starts when a task needs it.
    ///
    /// # Panics
    ///
    /// Panics if a value is out of range, if the initializer is a function of a dynamic library, or if the system is
    /// not Linux. Without the feature `process-constructor`, panics if `main` has not called
    /// [`worker_guard`](super::worker_guard).
    #[must_use]
    #[track_caller]
    pub fn build(self) -> ProcessPool {
        // With `unwrap_or_else`, the panic would have the location of the closure, not of the caller.
        match self.try_build() {
            Ok(pool) => pool,
            Err(error) => panic!("{error}"),
        }
    }

    /// Builds the pool from settings that may be out of range, such as those of a configuration file.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first setting for which [`build`](Self::build) would panic.
    pub fn try_build(self) -> Result<ProcessPool, ConfigError> {
        let Self { threads, settings } = self;
        let error = |problem| ConfigError::named("pool", settings.name.clone(), problem);
        let workers = threads.try_build();
        let threads = workers.map_err(|problem| match problem.setting() {
            "threads" => error(("workers", "workers() must be from 1 to 2,147,483,647: use about one per processor")),
            _ => problem,
        })?;
        let problem = match &settings {
            ProcessSettings { timeout: Some(Duration::ZERO), .. } => {
                Some(("timeout", "a timeout of zero lets no task run: use a longer one, or no limit"))
            }
            ProcessSettings { cpu_limit: Some(Duration::ZERO), .. } => {
                Some(("cpu_limit", "a cpu_limit of zero lets no task run: use a longer one, or no limit"))
            }
            ProcessSettings { start_timeout: Duration::ZERO, .. } => {
                Some(("start_timeout", "a start_timeout of zero lets no worker start: use some seconds"))
            }
            ProcessSettings { memory_limit: Some(0), .. } => {
                Some(("memory_limit", "memory_limit(0) lets no worker start: use some hundred MiB, or no limit"))
            }
            ProcessSettings { max_tasks_per_worker: Some(0), .. } => {
                Some(("max_tasks_per_worker", "max_tasks_per_worker(0) lets no task run: use 1 or more"))
            }
            ProcessSettings { recycle_above: Some(0), .. } => {
                Some(("recycle_above", "recycle_above(0) keeps no worker: use max_tasks_per_worker(1) for that"))
            }
            ProcessSettings { idle_timeout: Duration::ZERO, .. } => {
                Some(("idle_timeout", "an idle_timeout of zero keeps no worker: use max_tasks_per_worker(1) for that"))
            }
            ProcessSettings { min_idle, .. } if *min_idle > threads.limiter().total() => {
                Some(("min_idle", "min_idle is above workers, so it is never reached: lower it, or raise workers"))
            }
            ProcessSettings { max_reply: 0, .. } => {
                Some(("max_reply", "max_reply(0) lets no task return a result: use some MiB"))
            }
            _ => None,
        };
        problem.map_or(Ok(()), Err).and_then(|()| WorkerSet::check_support(&settings)).map_err(error)?;
        let workers = WorkerSet::new(settings.clone(), threads.limiter().clone());
        Ok(ProcessPool::from_parts(threads, workers, settings))
    }
}
