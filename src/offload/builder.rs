//! [`PoolBuilder`], which builds both kinds of pools.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::blocking::BlockingPool;
#[cfg(feature = "cpu")]
use super::cpu::{CpuPool, CpuThreads};
#[cfg(feature = "cpu")]
use super::error::PoolBuildError;
use super::limiter::{CapacityLimiter, SharedLimiter};
use crate::config_error::{ConfigError, Problem};
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
    #[cfg(feature = "cpu")]
    threads: Option<usize>,
    #[cfg(feature = "cpu")]
    shared: Option<CpuPool>,
    max_queued: Option<usize>,
    max_wait: Option<Duration>,
    pool: PhantomData<fn() -> P>,
}

/// The settings that both kinds of pools have.
pub(super) struct PoolSettings {
    pub(super) name: Cow<'static, str>,
    pub(super) max_queued: Option<usize>,
    pub(super) max_wait: Option<Duration>,
}

impl<P> PoolBuilder<P> {
    pub(super) fn new(name: Cow<'static, str>) -> Self {
        Self {
            name,
            max_running: None,
            limiter: None,
            #[cfg(feature = "cpu")]
            threads: None,
            #[cfg(feature = "cpu")]
            shared: None,
            max_queued: None,
            max_wait: None,
            pool: PhantomData,
        }
    }

    /// Sets how many tasks may be queued, across all runtimes. Further tasks fail with
    /// [`Full`](super::OffloadErrorKind::Full). With 0, a task fails immediately if no token is free. Default: no
    /// bound.
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

    fn check_max_wait(&self) -> Result<(), Problem> {
        if self.max_wait == Some(Duration::ZERO) {
            return Err(("max_wait", "a max_wait of zero lets no task start: use max_queued(0), or no limit"));
        }
        Ok(())
    }

    fn settings(self) -> PoolSettings {
        PoolSettings { name: self.name, max_queued: self.max_queued, max_wait: self.max_wait }
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

    /// Sets a limiter, which other pools may share. Its total is how many tasks run at a time, and may be 0, which
    /// pauses the pool.
    pub fn limiter(mut self, limiter: impl Into<SharedLimiter>) -> Self {
        self.limiter = Some(limiter.into());
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
        if let Err(problem) = self.check_max_running().and_then(|()| self.check_max_wait()) {
            return Err(ConfigError::named("pool", self.name, problem));
        }
        let max_running = self.max_running.unwrap_or(Self::DEFAULT_MAX_RUNNING);
        let limiter = self.limiter.take().unwrap_or_else(|| Arc::new(CapacityLimiter::new(max_running)).into());
        Ok(BlockingPool::from_settings(self.settings(), limiter))
    }

    fn check_max_running(&self) -> Result<(), Problem> {
        let problem = match self.max_running {
            Some(_) if self.limiter.is_some() => {
                "max_running() contradicts limiter(), whose total is how many tasks run: use one of them"
            }
            Some(0) => "max_running(0) runs no task: use 1 or more, or limiter() with a total of 0 to begin paused",
            Some(tasks) if tasks > CapacityLimiter::MAX_TOTAL => {
                "max_running() must be at most 2,147,483,647 (CapacityLimiter::MAX_TOTAL)"
            }
            _ => return Ok(()),
        };
        Err(("max_running", problem))
    }
}

#[cfg(feature = "cpu")]
impl CpuPoolBuilder {
    /// Sets the number of threads, from 1 to rayon's maximum, which is 65,535 on 64-bit systems. Default: the number of
    /// processors that the process may use.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Shares the threads and the limiter of another pool. Together, the two pools run as many tasks as that pool
    /// alone. Each pool has its own queue and bound, and closes separately.
    pub fn share_threads(mut self, with: &CpuPool) -> Self {
        self.shared = Some(with.clone());
        self
    }

    /// Builds the pool, and starts its threads unless it shares those of another pool.
    ///
    /// # Panics
    ///
    /// Panics if `threads` is not from 1 to rayon's maximum or is set together with `share_threads`, if `max_wait`
    /// is zero, or if the threads can't be started.
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
    /// Returns an error that names the first setting for which [`build`](Self::build) would panic, or an error if the
    /// threads can't be started.
    pub fn try_build(mut self) -> Result<CpuPool, PoolBuildError> {
        if let Err(problem) = self.check_threads().and_then(|()| self.check_max_wait()) {
            return Err(ConfigError::named("pool", self.name, problem).into());
        }
        let threads = match self.shared.take() {
            Some(shared) => CpuThreads::Shared(shared),
            None => CpuThreads::New(self.threads),
        };
        CpuPool::from_settings(self.settings(), threads)
    }

    fn check_threads(&self) -> Result<(), Problem> {
        let problem = match self.threads {
            Some(_) if self.shared.is_some() => {
                "threads() contradicts share_threads(), which uses the threads of the other pool: use one of them"
            }
            Some(0) => "threads(0) runs no task: use 1 or more, or leave the number to the pool",
            Some(threads) if threads > rayon_core::max_num_threads() => {
                "threads() is above rayon's maximum, 65,535 on 64-bit systems: use about one per processor"
            }
            _ => return Ok(()),
        };
        Err(("threads", problem))
    }
}

impl<P> Clone for PoolBuilder<P> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            max_running: self.max_running,
            limiter: self.limiter.clone(),
            #[cfg(feature = "cpu")]
            threads: self.threads,
            #[cfg(feature = "cpu")]
            shared: self.shared.clone(),
            max_queued: self.max_queued,
            max_wait: self.max_wait,
            pool: PhantomData,
        }
    }
}

impl_debug!([P] PoolBuilder<P> |this| {
    name: this.name, max_running: this.max_running, limiter: this.limiter, max_queued: this.max_queued,
    max_wait: this.max_wait, ..
});
