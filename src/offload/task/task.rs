//! [`Task`], work for a pool with what is to be known of it.

use std::borrow::Cow;
use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::context::{TaskContext, Terms};
use super::future::TaskFuture;
use super::handle::TaskHandle;
use super::priority::Priority;
use crate::offload::error::OffloadError;
use crate::offload::workers::Pool;

/// Work for a pool that has not been handed over yet. Awaiting it does so; [`start`](Self::start) does so at once.
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
///     .queue_timeout(Duration::from_millis(50))
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
    pub(crate) terms: Terms,
    pub(crate) priority: Priority,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
}

impl<F> Task<F> {
    pub(crate) fn new(pool: Arc<Pool>, work: F) -> Self {
        let queue_timeout = pool.queue_timeout;
        Self { pool, work, terms: Terms::default(), priority: Priority::Normal, queue_timeout, timeout: None }
    }

    /// A name for it in [statistics](crate::offload::PoolStatistics::tasks).
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.terms.label = Some(label.into());
        self
    }

    /// Whether it goes before or after others that wait. Default: [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// How long it may wait for a thread, on a runtime that has its timers enabled. Then it fails with [`OffloadError::QueueTimeout`], and never runs.
    /// Default: that of the pool, which is for ever if it was not told.
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.queue_timeout = Some(limit);
        self
    }

    /// How long its caller waits for the result, on a runtime that has its timers enabled, from when it is handed over. Then it fails with [`OffloadError::Timeout`]:
    /// if it had not begun, it never will; if it runs, it goes on, and its [context](TaskContext) tells it that nobody waits.
    /// Default: for ever.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Until when its caller waits for the result: as [`timeout`](Self::timeout), for a point in time. Of both, the earlier
    /// one holds.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.terms.deadline = Some(deadline);
        self
    }

    /// Has it run and go on even if its caller leaves: dropping the future or the handle, once the task was handed over,
    /// neither takes it out of the queue nor cancels its [context](TaskContext). It is what `asyncio.shield` does. What the caller
    /// would have done after it is lost all the same: put that into the closure.
    ///
    /// Timeouts still take it out of the queue.
    pub fn shield(mut self) -> Self {
        self.terms.is_shielded = true;
        self
    }
}

impl<F, T> Task<F>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    /// Hands it over at once, without waiting for the result.
    ///
    /// Called from a task of the same pool, it is run on the spot, and its result is there when this returns: waiting for a
    /// thread, it might wait for its own caller.
    ///
    /// # Panics
    ///
    /// Not here, but when it is awaited: with limits of time, on a runtime whose timers are not enabled.
    ///
    /// # Errors
    ///
    /// [`OffloadError::Full`], [`Closed`](OffloadError::Closed), [`NoRuntime`](OffloadError::NoRuntime) or
    /// [`RuntimeShutdown`](OffloadError::RuntimeShutdown), if it could not be handed over.
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

impl<F> fmt::Debug for Task<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("pool", &self.pool.name())
            .field("terms", &self.terms)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}
