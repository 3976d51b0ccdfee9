//! [`Portal`], a way into async code for threads that know nothing of it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use super::error::FromThreadError;
use super::portal_task::PortalTask;
use crate::park::runs_async_tasks;

/// A way into async code for threads that know nothing of it: `anyio.from_thread.BlockingPortal`.
///
/// It can be cloned and used from many threads at once. What it runs is a task of its runtime, not of the calling thread.
/// (In a task of a pool, [`block_on`](super::block_on) runs async code on the spot.)
///
/// When it is [closed](Self::close), or when the last of its copies and of its [tasks'](PortalTask) handles is dropped, what
/// it has spawned is cancelled: dropped where it awaits. When its runtime shuts down, everything ends with
/// [`FromThreadError::Closed`], sooner or later: a runtime that is still there but that nobody drives, such as a
/// `current_thread` one outside of its `block_on`, runs no tasks, and those who call wait.
///
/// # Examples
///
/// ```
/// use onelane::offload::from_thread::Portal;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let portal = Portal::current()?;
/// // A thread of a library that calls back.
/// let callback = std::thread::spawn(move || portal.call(async { tokio::time::Instant::now() }));
/// # let callback = tokio::task::spawn_blocking(|| callback.join());
/// assert!(callback.await?.is_ok_and(|now| now.is_ok()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Portal(Arc<Inner>);

struct Inner {
    runtime: Handle,
    /// Cancelled when it is closed. Each task has a child of it.
    closed: CancellationToken,
}

impl Portal {
    /// A portal to the runtime of the caller.
    ///
    /// # Errors
    ///
    /// [`FromThreadError::NoRuntime`] outside of one.
    pub fn current() -> Result<Self, FromThreadError> {
        let runtime = Handle::try_current().map_err(|_| FromThreadError::NoRuntime)?;
        Ok(Self(Arc::new(Inner { runtime, closed: CancellationToken::new() })))
    }

    /// A portal to a runtime of its own, on a thread of its own, for programs that have none: `start_blocking_portal`.
    ///
    /// The thread ends, and the runtime with it, when the portal is closed or dropped. Nobody waits for that.
    ///
    /// # Errors
    ///
    /// What the operating system says if it has no thread, or nothing for the runtime to wait on.
    ///
    /// # Examples
    ///
    /// ```
    /// use onelane::offload::from_thread::Portal;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let portal = Portal::start()?;
    /// let answer = portal.call(async {
    ///     tokio::time::sleep(Duration::from_millis(1)).await;
    ///     42
    /// })?;
    /// assert_eq!(answer, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let inner = Inner { runtime: runtime.handle().clone(), closed: CancellationToken::new() };
        let closed = inner.closed.clone();
        let run = move || runtime.block_on(closed.cancelled());
        thread::Builder::new().name("onelane-portal".to_owned()).spawn(run)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Runs async code in the portal's runtime, and waits for its result.
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn) and [`PortalTask::wait`]. On a thread that runs async tasks nothing is spawned.
    pub fn call<F>(&self, future: F) -> Result<F::Output, FromThreadError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if runs_async_tasks() {
            return Err(FromThreadError::BlockingInAsync);
        }
        self.spawn(future)?.wait()
    }

    /// Has async code run in the portal's runtime, without waiting for it. It may be called from async code, too.
    ///
    /// # Errors
    ///
    /// [`FromThreadError::Closed`] if the portal is closed. If it is being closed at the same time, or its runtime is gone,
    /// the task may tell so instead.
    pub fn spawn<F>(&self, future: F) -> Result<PortalTask<F::Output>, FromThreadError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.0.closed.is_cancelled() {
            return Err(FromThreadError::Closed);
        }
        Ok(PortalTask::spawn(self.clone(), self.0.closed.child_token(), future))
    }

    /// Cancels what it has spawned, and refuses what comes. Those who wait get [`FromThreadError::Cancelled`].
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl fmt::Debug for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portal").field("closed", &self.0.closed.is_cancelled()).finish_non_exhaustive()
    }
}
