//! [`Portal`], which gives threads without a runtime access to async code.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use super::error::FromThreadError;
use super::portal_task::PortalTask;
use crate::debug::impl_debug;
use crate::park::runs_async_tasks;

/// Runs async code for threads that have no runtime. The type corresponds to `anyio.from_thread.BlockingPortal`.
///
/// A portal can be cloned and used from many threads at once. The futures that it runs are tasks of its runtime, and
/// are not polled on the calling thread. (In a task of a pool, [`block_on`](super::block_on) polls a future on the
/// calling thread.)
///
/// The portal's tasks are cancelled when the portal is [closed](Self::close), or when the last of its clones and of its
/// [task handles](PortalTask) is dropped. A cancelled task is dropped at its `.await`. After the runtime was shut down,
/// all calls eventually fail with [`FromThreadError::Closed`]. A runtime that exists but is not driven, such as a
/// `current_thread` runtime outside of its `block_on`, runs no tasks, and calls wait until the runtime is driven.
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
pub struct Portal(Arc<PortalInner>);

struct PortalInner {
    runtime: Handle,
    /// Cancelled when the portal is closed. Each task has a child of this token.
    closed: CancellationToken,
}

impl Portal {
    /// Creates a portal to the current runtime.
    ///
    /// # Errors
    ///
    /// Returns [`FromThreadError::NoRuntime`] outside of a runtime.
    pub fn current() -> Result<Self, FromThreadError> {
        let runtime = Handle::try_current().map_err(|_| FromThreadError::NoRuntime)?;
        Ok(Self(Arc::new(PortalInner { runtime, closed: CancellationToken::new() })))
    }

    /// Creates a portal to a new runtime on a new thread, for programs that have no runtime. The method corresponds to
    /// `start_blocking_portal` in anyio.
    ///
    /// The thread and its runtime end when the portal is closed or dropped. Neither closing nor dropping the portal
    /// waits for the thread.
    ///
    /// # Errors
    ///
    /// Returns the error of the operating system if it can't start the thread, or can't provide the event queue that
    /// the runtime waits on.
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
        let inner = PortalInner { runtime: runtime.handle().clone(), closed: CancellationToken::new() };
        let closed = inner.closed.clone();
        let run = move || runtime.block_on(closed.cancelled());
        thread::Builder::new().name("onelane-portal".to_owned()).spawn(run)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Runs async code in the portal's runtime, and waits for its result.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`spawn`](Self::spawn) and [`PortalTask::wait`]. On a thread that runs async tasks,
    /// nothing is spawned.
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

    /// Spawns async code in the portal's runtime, without waiting for it. May be called from async code too.
    ///
    /// # Errors
    ///
    /// Returns [`FromThreadError::Closed`] if the portal is closed. If the portal is closed at the same time, or its
    /// runtime is gone, [`PortalTask::wait`] may return the error instead.
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

    /// Cancels the portal's tasks and refuses new ones. Calls that wait for a task return
    /// [`FromThreadError::Cancelled`].
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl Drop for PortalInner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl_debug!(Portal |this| { closed: this.0.closed.is_cancelled(), .. });
