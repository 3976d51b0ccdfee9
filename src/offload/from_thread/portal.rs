//! [`Portal`], which gives threads without a runtime access to async code.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::FromThreadError;
use super::portal_task::PortalTask;
use crate::debug::impl_debug;
use crate::own_runtime::OwnRuntime;
use crate::park::runs_async_tasks;
use crate::wake::Contained;

/// Runs async code for threads that have no runtime. The type corresponds to `anyio.from_thread.BlockingPortal`.
///
/// A portal can be cloned and used from many threads at once. The futures that it runs are tasks of its runtime, and
/// are not polled on the calling thread. (In a task of a pool, [`block_on`](super::block_on) polls a future on the
/// calling thread.)
///
/// The portal's tasks are cancelled when the portal is [cancelled](Self::cancel), or when the last of its clones and of
/// its [task handles](PortalTask) is dropped. A cancelled task is dropped at its `.await`. After the runtime was shut
/// down, all calls eventually fail with [`FromThreadError::Closed`]. A runtime that exists but is not driven, such as a
/// `current_thread` runtime outside of its `block_on`, runs no tasks, and calls wait until the runtime is driven.
///
/// To stop a portal without cutting off its tasks, [`close`](Self::close) it, and await [`drained`](Self::drained).
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
    /// Counts the tasks that have not ended, and is closed with the portal.
    tasks: TaskTracker,
    /// Cancelled when the portal is cancelled. Each task has a child of this token.
    cancelled: CancellationToken,
}

impl Portal {
    /// Creates a portal to the current runtime.
    ///
    /// # Errors
    ///
    /// Returns [`FromThreadError::NoRuntime`] outside of a runtime.
    pub fn current() -> Result<Self, FromThreadError> {
        let runtime = Handle::try_current().map_err(|_| FromThreadError::NoRuntime)?;
        Ok(Self(Arc::new(PortalInner::new(runtime))))
    }

    /// Creates a portal to a new runtime on a new thread, for programs that have no runtime. The method corresponds to
    /// `start_blocking_portal` in anyio.
    ///
    /// The thread and its runtime end when the portal is closed or dropped, and its tasks have ended. Neither closing
    /// nor dropping the portal waits for the thread.
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
        let runtime = OwnRuntime::build(&mut Builder::new_current_thread())?;
        let inner = PortalInner::new(runtime.handle().clone());
        let tasks = inner.tasks.clone();
        let run = move || runtime.block_on(tasks.wait());
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
        // The task is counted before the check: if the portal is closed in between, `drained` waits for the task.
        let counted = self.0.tasks.token();
        if self.is_closed() {
            return Err(FromThreadError::Closed);
        }
        Ok(PortalTask::spawn(self.clone(), self.0.cancelled.child_token(), counted, future))
    }

    /// Closes the portal: new calls fail with [`FromThreadError::Closed`], and running tasks continue.
    pub fn close(&self) {
        self.0.tasks.close();
    }

    /// Returns `true` if the portal was [closed](Self::close) or [cancelled](Self::cancel).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.tasks.is_closed()
    }

    /// Closes the portal and cancels its tasks, [detached](PortalTask::detach) ones included. Calls that wait for a
    /// task return [`FromThreadError::Cancelled`].
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Waits until the portal is [closed](Self::close) and all of its tasks have ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn drained(&self) {
        Contained(pin!(self.0.tasks.wait())).await;
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl PortalInner {
    fn new(runtime: Handle) -> Self {
        Self { runtime, tasks: TaskTracker::new(), cancelled: CancellationToken::new() }
    }

    fn cancel(&self) {
        self.tasks.close();
        self.cancelled.cancel();
    }
}

impl Drop for PortalInner {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl_debug!(Portal |this| { closed: this.is_closed(), .. });
