//! [`PoolBuilder`], which builds both kinds of pools.

use std::borrow::Cow;
use std::marker::PhantomData;
#[cfg(feature = "cpu")]
use std::num::NonZero;
use std::sync::Arc;
#[cfg(feature = "cpu")]
use std::thread::available_parallelism;
use std::time::Duration;

use super::blocking::BlockingPool;
#[cfg(feature = "cpu")]
use super::cpu::CpuPool;
use super::limiter::{CapacityLimiter, SharedLimiter};
use crate::config_error::ConfigError;
use crate::debug::impl_debug;

/// Builds a [`BlockingPool`]. Created by [`BlockingPool::builder`].
///
/// ```
/// use std::time::Duration;
/// use onelane::BlockingPool;
///
/// let reports = BlockingPool::builder("reports")
///     .max_running(4)
///     .max_queued(32)
///     .max_wait(Duration::from_secs(2))
///     .build();
/// # assert_eq!(reports.stats().max_running, 4);
/// ```
pub type BlockingPoolBuilder = PoolBuilder<BlockingPool>;

/// Builds a [`CpuPool`]. Created by [`CpuPool::builder`].
///
/// ```
/// use onelane::CpuPool;
///
/// let images = CpuPool::builder("images").threads(2).max_queued(16).build();
/// # assert_eq!(images.stats().max_running, 2);
/// ```
#[cfg(feature = "cpu")]
pub type CpuPoolBuilder = PoolBuilder<CpuPool>;

/// Builds a pool: [`BlockingPoolBuilder`] and [`CpuPoolBuilder`](super::CpuPoolBuilder) are aliases of this type.
///
/// The setters accept any value. [`build`](BlockingPoolBuilder::build) panics if a value is out of range, and
/// [`try_build`](BlockingPoolBuilder::try_build) returns an error, for values that come from a configuration.
#[must_use = "a builder does nothing until build() is called"]
pub struct PoolBuilder<P> {
    name: Cow<'static, str>,
    max_running: Option<usize>,
    limiter: Option<SharedLimiter>,
    stack_size: Option<usize>,
    max_queued: Option<usize>,
    max_wait: Option<Duration>,
    pool: PhantomData<fn() -> P>,
}

/// The settings that both kinds of pools have.
pub(super) struct PoolSettings {
    pub(super) name: Cow<'static, str>,
    pub(super) max_queued: Option<usize>,
    pub(super) max_wait: Option<Duration>,
    pub(super) stack_size: Option<usize>,
}

impl<P> PoolBuilder<P> {
    pub(super) fn new(name: Cow<'static, str>) -> Self {
        Self {
            name,
            max_running: None,
            limiter: None,
            stack_size: None,
            max_queued: None,
            max_wait: None,
            pool: PhantomData,
        }
    }

    /// Sets how many tasks may be queued, across all runtimes. Further tasks fail with
    /// [`Full`](super::OffloadErrorKind::Full). Tasks for which a token is free wait only for a thread, and don't count.
    /// A stream whose first task was accepted is never refused later: its other tasks are queued beyond the bound.
    /// With 0, a task fails immediately if no token is free. Default: no bound.
    ///
    /// Where all blocking threads of a runtime are busy, a task waits for a thread although a token is free. After 10 to
    /// 20 ms it leaves the token to the tasks of other runtimes and counts like any waiting task. Until a thread is free,
    /// so do further tasks of its runtime: with 0, they are refused.
    pub fn max_queued(mut self, tasks: usize) -> Self {
        self.max_queued = Some(tasks);
        self
    }

    /// Sets how long a task waits for a thread if it has no [limit](super::Task::max_wait) of its own. Must be
    /// above zero. Default: no limit.
    pub fn max_wait(mut self, limit: Duration) -> Self {
        self.max_wait = Some(limit);
        self
    }

    /// Sets a limiter, which other pools may share. Its total is how many tasks run at a time, in all of these pools
    /// together, and may be 0, which pauses the pool. Each pool has its own queue and bound, and closes separately.
    pub fn limiter(mut self, limiter: impl Into<SharedLimiter>) -> Self {
        self.limiter = Some(limiter.into());
        self
    }

    /// Sets the stack size, in bytes, of the threads that the pool starts: the threads of a [CPU
    /// pool](super::CpuPoolBuilder), and in each kind of pool those that a [nested task](super#nested-tasks) may need.
    /// A blocking pool runs its other tasks on threads of the runtime, which has a [setting of its
    /// own](tokio::runtime::Builder::thread_stack_size). Default: 64 MiB, or 4 MiB on a 32-bit machine, which is room
    /// for code that works on a runtime with larger stacks than those of [`std::thread`]. A thread takes only as much
    /// memory as it uses.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Checks the settings. `problems` are those of `total_setting`, the setter of how many tasks run: it contradicts
    /// the limiter, it is zero, it is too large.
    fn check(&self, total_setting: &'static str, problems: [&'static str; 3]) -> Result<(), ConfigError> {
        let [contradicts, zero, too_large] = problems;
        let problem = match self.max_running {
            Some(_) if self.limiter.is_some() => (total_setting, contradicts),
            Some(0) => (total_setting, zero),
            Some(tasks) if tasks > CapacityLimiter::MAX_TOTAL => (total_setting, too_large),
            _ if self.max_wait == Some(Duration::ZERO) => {
                ("max_wait", "a max_wait of zero lets no task start: use max_queued(0), or no limit")
            }
            _ => return Ok(()),
        };
        Err(ConfigError::named("pool", self.name.clone(), problem))
    }

    fn take_limiter(&mut self, default_total: usize) -> SharedLimiter {
        let total = self.max_running.unwrap_or(default_total);
        self.limiter.take().unwrap_or_else(|| Arc::new(CapacityLimiter::new(total)).into())
    }

    fn settings(self) -> PoolSettings {
        let Self { name, max_queued, max_wait, stack_size, .. } = self;
        PoolSettings { name, max_queued, max_wait, stack_size }
    }
}

impl BlockingPoolBuilder {
    /// The default of `max_running`, as in Starlette.
    const DEFAULT_MAX_RUNNING: usize = 40;

    /// Sets how many tasks run at a time, from 1 to [`CapacityLimiter::MAX_TOTAL`]. Default: 40. The runtime has 512
    /// threads for these and all other blocking calls, unless it was
    /// [configured](tokio::runtime::Builder::max_blocking_threads) otherwise.
    pub fn max_running(mut self, tasks: usize) -> Self {
        self.max_running = Some(tasks);
        self
    }

    /// Builds the pool. The pool takes threads only when there is work.
    ///
    /// # Panics
    ///
    /// Panics if `max_running` is not from 1 to [`CapacityLimiter::MAX_TOTAL`] or is set together with `limiter`, or if
    /// `max_wait` is zero.
    #[must_use]
    #[track_caller]
    pub fn build(self) -> BlockingPool {
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
    pub fn try_build(mut self) -> Result<BlockingPool, ConfigError> {
        let problems = [
            "max_running() contradicts limiter(), whose total is how many tasks run: use one of them",
            "max_running(0) runs no task: use 1 or more, or limiter() with a total of 0 to begin paused",
            "max_running() must be at most 2,147,483,647 (CapacityLimiter::MAX_TOTAL)",
        ];
        self.check("max_running", problems)?;
        let limiter = self.take_limiter(Self::DEFAULT_MAX_RUNNING);
        Ok(BlockingPool::from_settings(self.settings(), limiter))
    }
}

#[cfg(feature = "cpu")]
impl CpuPoolBuilder {
    /// Sets how many tasks run at a time, each on a thread of the pool, from 1 to [`CapacityLimiter::MAX_TOTAL`].
    /// Default: the number of processors that the process may use.
    pub fn threads(mut self, threads: usize) -> Self {
        self.max_running = Some(threads);
        self
    }

    /// Builds the pool. The pool starts a thread only when there is work for it.
    ///
    /// # Panics
    ///
    /// Panics if `threads` is not from 1 to [`CapacityLimiter::MAX_TOTAL`] or is set together with `limiter`, or if
    /// `max_wait` is zero.
    #[must_use]
    #[track_caller]
    pub fn build(self) -> CpuPool {
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
    pub fn try_build(mut self) -> Result<CpuPool, ConfigError> {
        let problems = [
            "threads() contradicts limiter(), whose total is how many tasks run: use one of them",
            "threads(0) runs no task: use 1 or more, or limiter() with a total of 0 to begin paused",
            "threads() must be at most 2,147,483,647 (CapacityLimiter::MAX_TOTAL): use about one per processor",
        ];
        self.check("threads", problems)?;
        let limiter = self.take_limiter(available_parallelism().map_or(1, NonZero::get));
        Ok(CpuPool::from_settings(self.settings(), limiter))
    }
}

impl<P> Clone for PoolBuilder<P> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            max_running: self.max_running,
            limiter: self.limiter.clone(),
            stack_size: self.stack_size,
            max_queued: self.max_queued,
            max_wait: self.max_wait,
            pool: PhantomData,
        }
    }
}

impl_debug!([P] PoolBuilder<P> |this| {
    name: this.name, max_running: this.max_running, limiter: this.limiter, max_queued: this.max_queued,
    max_wait: this.max_wait, stack_size: this.stack_size, ..
});
