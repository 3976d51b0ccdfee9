//! [`Task`], work for a pool with its options.

use std::borrow::Cow;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::future::TaskFuture;
use super::handle::TaskHandle;
use crate::debug::impl_debug;
use crate::offload::error::OffloadError;
#[cfg(doc)]
use crate::offload::error::OffloadErrorKind;
use crate::offload::job::{CallerContext, Priority, TaskContext, TaskOptions};
use crate::offload::workers::Pool;

/// Work for a pool that is not submitted yet. Awaiting it submits it and waits for the result; [`start`](Self::start)
/// only submits it.
///
/// The task runs in the `tracing` span and with the subscriber of the code that creates it, wherever it is awaited.
/// ([`run`](crate::offload::BlockingPool::run) creates its task when its future is polled for the first time.)
///
/// # Examples
///
/// ```
/// use onelane::offload::{BlockingPool, OffloadError, Priority};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), OffloadError> {
/// let pool = BlockingPool::new("images");
/// let width = pool
///     .task(|_| 128)
///     .label("thumbnail")
///     .priority(Priority::High)
///     .max_wait(Duration::from_millis(50))
///     .timeout(Duration::from_secs(2))
///     .await?;
/// assert_eq!(width, 128);
/// # Ok(())
/// # }
/// ```
#[must_use = "a task does nothing unless it is awaited or started"]
pub struct Task<F> {
    pub(crate) pool: Arc<Pool>,
    pub(crate) work: F,
    /// The span, the subscriber and the scopes in which the task was created.
    pub(crate) caller: CallerContext,
    pub(crate) options: TaskOptions,
    pub(crate) priority: Priority,
    pub(crate) max_wait: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
}

impl<F> Task<F> {
    pub(crate) fn new(pool: Arc<Pool>, work: F) -> Self {
        Self::with_caller(pool, work, CallerContext::capture())
    }

    /// Creates a task that runs in a context that was captured before.
    pub(crate) fn with_caller(pool: Arc<Pool>, work: F, caller: CallerContext) -> Self {
        let (options, priority, max_wait) = (TaskOptions::default(), Priority::Normal, pool.max_wait);
        Self { pool, work, caller, options, priority, max_wait, timeout: None }
    }

    /// Sets a name for the task in [statistics](crate::offload::PoolStats::tasks) and [errors](OffloadError::label).
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.options.label = Some(label.into());
        self
    }

    /// Sets the order relative to other queued tasks. Default: [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Limits how long the task waits for a thread. After that it fails with
    /// [`QueueTimeout`](OffloadErrorKind::QueueTimeout), and never runs. Needs a runtime whose timers are enabled.
    /// Default: the limit of the pool, which has none by default.
    ///
    /// A limit of zero, such as the rest of a budget that is used up, fails the task without running it.
    pub fn max_wait(mut self, limit: Duration) -> Self {
        self.max_wait = Some(limit);
        self
    }

    /// Limits how long the caller waits for the result, from when the task is submitted. After that it fails with
    /// [`Timeout`](OffloadErrorKind::Timeout). A task that has not started then never runs; a running one continues,
    /// and its [context](TaskContext) reports that it is cancelled: [`OffloadError::progress`] distinguishes the two.
    /// Needs a runtime whose timers are enabled. Default: no limit.
    ///
    /// A limit of zero, such as the rest of a budget that is used up, fails the task without running it.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets the point in time until which the caller waits for the result, like [`timeout`](Self::timeout). If both are
    /// set, the earlier one applies.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.options.deadline = Some(deadline);
        self
    }

    /// Lets the task run even if its caller drops it: once the task is submitted, dropping the future or the handle
    /// neither removes it from the queue nor cancels its [context](TaskContext). This option corresponds to
    /// `asyncio.shield`. The work that the dropped caller would have done with the result is still lost: put such work
    /// into the closure.
    ///
    /// Timeouts still remove the task from the queue.
    pub fn shield(mut self) -> Self {
        self.options.is_shielded = true;
        self
    }
}

impl<F, T> Task<F>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    /// Submits the task immediately, without waiting for the result.
    ///
    /// If a task of the same limiter calls this method, the method may run the new task before it returns: if the new
    /// task waited for a token, it might wait for its own caller. See [nested tasks](crate::offload#nested-tasks).
    ///
    /// # Panics
    ///
    /// Awaiting a task with time limits panics on a runtime whose timers are not enabled. `start` itself does not
    /// panic.
    ///
    /// # Errors
    ///
    /// Returns [`Full`](OffloadErrorKind::Full), [`Closed`](OffloadErrorKind::Closed),
    /// [`NoRuntime`](OffloadErrorKind::NoRuntime) or [`RuntimeShutdown`](OffloadErrorKind::RuntimeShutdown), if the
    /// task could not be submitted.
    pub fn start(self) -> Result<TaskHandle<T>, OffloadError> {
        TaskHandle::start(self)
    }
}

impl<F, T> IntoFuture for Task<F>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, OffloadError>;
    type IntoFuture = TaskFuture<F, T>;

    fn into_future(self) -> TaskFuture<F, T> {
        TaskFuture::new(self)
    }
}

impl_debug!([F] Task<F> |this| { pool: this.pool.name(), options: this.options, priority: this.priority, .. });
