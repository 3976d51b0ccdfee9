//! [`ProcessPool`], which runs functions in worker processes.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::builder::ProcessPoolBuilder;
use super::error::ProcessError;
use super::platform::WorkerSet;
use super::stats::ProcessStats;
use super::task::ProcessTask;
use crate::debug::impl_debug;
use crate::offload::cpu::CpuPool;
use crate::offload::error::OffloadError;
use crate::offload::limiter::SharedLimiter;
use crate::offload::process::settings::ProcessSettings;

/// Runs functions in worker processes, a limited number at a time.
///
/// A function that crashes ends its worker and nothing else: the caller gets a [`ProcessError`], all other tasks
/// continue, and the next task gets a new worker. The same holds for a function that hangs, with a
/// [`timeout`](ProcessPoolBuilder::timeout), or takes all memory, with a
/// [`memory_limit`](ProcessPoolBuilder::memory_limit). A worker runs many tasks, one at a time.
///
/// Clones are handles to the same pool. See the [module page](super) for what a function may do.
///
/// # Examples
///
/// ```
/// use onelane::ProcessPool;
///
/// fn checksum(lines: Vec<String>) -> u32 {
///     lines.iter().flat_map(|line| line.bytes()).fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), onelane::ProcessError> {
/// let pool = ProcessPool::new("checksums");
/// assert_eq!(pool.run(checksum, vec!["onelane".to_owned()]).await?, 2_974_457_170);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ProcessPool(Arc<ProcessPoolParts>);

struct ProcessPoolParts {
    /// Queues the tasks. Each of its threads waits for one worker at a time.
    threads: CpuPool,
    workers: Arc<WorkerSet>,
    settings: ProcessSettings,
}

impl ProcessPool {
    /// Creates a pool that runs as many tasks at a time as there are processors for this process. The queue is
    /// unbounded, and tasks have no limits.
    ///
    /// # Panics
    ///
    /// Panics where a worker can't run, like [`build`](ProcessPoolBuilder::build).
    #[must_use]
    #[track_caller]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self::builder(name).build()
    }

    /// Returns a builder for a pool with limits. The name, which may come from a configuration, appears in errors,
    /// statistics and thread names, and in the system's list of processes.
    pub fn builder(name: impl Into<Cow<'static, str>>) -> ProcessPoolBuilder {
        ProcessPoolBuilder::new(name.into())
    }

    pub(super) fn from_parts(threads: CpuPool, workers: Arc<WorkerSet>, settings: ProcessSettings) -> Self {
        Self(Arc::new(ProcessPoolParts { threads, workers, settings }))
    }

    /// Calls `function` with `arguments` in a worker, and waits for the result. Pass several arguments as a tuple.
    ///
    /// The function may be generic, and may be a closure that captures nothing.
    ///
    /// # Errors
    ///
    /// Returns a [`ProcessError`].
    ///
    /// # Cancel safety
    ///
    /// The same as for [`ProcessFuture`](super::ProcessFuture): if the future is dropped before the function has
    /// started, the function is never called. If the future is dropped later, the worker is killed.
    pub async fn run<A, R>(&self, function: fn(A) -> R, arguments: A) -> Result<R, ProcessError>
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        self.task(function, arguments).await
    }

    /// Creates a task with options: a label, time limits, a priority.
    pub fn task<A, R>(&self, function: fn(A) -> R, arguments: A) -> ProcessTask<A, R> {
        ProcessTask::new(self, function, arguments)
    }

    /// Returns the name of the pool.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.threads.name()
    }

    /// Returns the limiter, which bounds how many tasks run at a time, and so how many workers there are. Its total can
    /// change at any time.
    #[must_use]
    pub fn limiter(&self) -> &SharedLimiter {
        self.0.threads.limiter()
    }

    /// Returns a snapshot of the pool.
    #[must_use]
    pub fn stats(&self) -> ProcessStats {
        ProcessStats { tasks: self.0.threads.stats(), workers: self.0.workers.counts() }
    }

    /// Closes the pool. Queued and future tasks fail with [`NotStarted`](ProcessError::NotStarted); running tasks
    /// continue. Idle workers end now, and other workers after their tasks. This function waits for none of them.
    pub fn close(&self) {
        self.0.threads.close();
        self.0.workers.close();
    }

    /// Returns `true` if the pool was [closed](Self::close).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.threads.is_closed()
    }

    /// Waits until the pool is [closed](Self::close) and none of its tasks is running.
    ///
    /// # Errors
    ///
    /// Returns [`WouldDeadlock`](crate::offload::OffloadErrorKind::WouldDeadlock) on a thread that runs a task of this
    /// pool, in the code that converts arguments or a result.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn drained(&self) -> Result<(), OffloadError> {
        self.0.threads.drained().await
    }

    pub(super) fn threads(&self) -> &CpuPool {
        &self.0.threads
    }

    pub(super) fn workers(&self) -> &Arc<WorkerSet> {
        &self.0.workers
    }

    pub(super) fn settings(&self) -> &ProcessSettings {
        &self.0.settings
    }
}

impl Drop for ProcessPoolParts {
    /// Ends idle workers when the last handle is dropped. Tasks that were submitted still run.
    fn drop(&mut self) {
        self.workers.close();
    }
}

impl_debug!(ProcessPool |this| { threads: this.0.threads, workers: this.0.workers, .. });

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

    use super::*;

    #[tokio::test]
    async fn unit_tests_have_workers_too() {
        let pool = ProcessPool::builder("unit").workers(1).build();
        assert_ne!(pool.run(|(): ()| std::process::id(), ()).await.unwrap(), std::process::id());
    }
}
