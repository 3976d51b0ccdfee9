//! [`PortalTask`], async code that a portal runs.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::FromThreadError;
use super::executor::ThreadExecutor;
use super::portal::Portal;
use crate::debug::impl_debug;
use crate::offload::job::CallerContext;
use crate::offload::trace;
use crate::panic::{Panic, catch, catch_owned, discard};
use crate::park::runs_async_tasks;

/// Async code that a [`Portal`] runs. Created by [`Portal::spawn`].
///
/// The code runs in the `tracing` span and with the subscriber of the caller of [`Portal::spawn`].
///
/// Dropping the handle cancels the task. A task that has not started never runs. A task that runs is asked to stop: it
/// is dropped at its `.await`. [`detach`](Self::detach) lets the task go on without its handle. The same rule applies
/// to a [`TaskHandle`](crate::offload::TaskHandle).
#[must_use = "the task is cancelled when its handle is dropped: wait() for it, or detach() it"]
pub struct PortalTask<T> {
    task: JoinHandle<Result<T, FromThreadError>>,
    cancel: CancellationToken,
    cancel_on_drop: DropGuard,
    /// The context that the task inherits from its caller.
    caller: CallerContext,
    /// Keeps the portal open while a caller waits.
    _portal: Portal,
}

impl<T: Send + 'static> PortalTask<T> {
    pub(super) fn spawn<F>(portal: Portal, cancel: CancellationToken, counted: TaskTrackerToken, future: F) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let caller = CallerContext::capture();
        let work = run(future, cancel.clone(), caller.clone(), counted);
        let cancel_on_drop = cancel.clone().drop_guard();
        Self { task: portal.runtime().spawn(work), cancel, cancel_on_drop, caller, _portal: portal }
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// Returns [`FromThreadError::Panicked`] if the task panicked, [`Cancelled`](FromThreadError::Cancelled) if it was
    /// cancelled, [`Closed`](FromThreadError::Closed) if its runtime was shut down, and
    /// [`BlockingInAsync`](FromThreadError::BlockingInAsync) on a thread that runs async tasks. In that last case the
    /// handle is dropped, which cancels the task.
    pub fn wait(self) -> Result<T, FromThreadError> {
        if runs_async_tasks() {
            return Err(FromThreadError::BlockingInAsync);
        }
        ThreadExecutor::current().block_on(self.task).unwrap_or_else(|error| match error.try_into_panic() {
            Ok(payload) => Err(FromThreadError::Panicked(Panic::with_payload(payload))),
            Err(_) if self.cancel.is_cancelled() => Err(FromThreadError::Cancelled),
            Err(_) => Err(FromThreadError::Closed),
        })
    }
}

impl<T> PortalTask<T> {
    /// Cancels the task: it is dropped at its `.await`, unless it has completed.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Lets the task go on without its handle. Its result is lost.
    ///
    /// The task still ends with its portal: it is cancelled when the portal is [cancelled](Portal::cancel), or when the
    /// last of the portal's clones and of its task handles is dropped.
    pub fn detach(self) {
        self.caller.release_scopes();
        let _disarmed = self.cancel_on_drop.disarm();
    }

    /// Returns `true` if the task has ended, so that [`wait`](Self::wait) would not block.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// Runs a future until it completes, panics or is cancelled.
async fn run<F: Future>(
    future: F,
    cancel: CancellationToken,
    caller: CallerContext,
    counted: TaskTrackerToken,
) -> Result<F::Output, FromThreadError> {
    // Dropped after the future: the task has ended when it is no longer counted.
    let _counted = counted;
    let mut future = Box::pin(future);
    // A task that was cancelled before it started must not run, and `run_until_cancelled` polls the future first.
    if cancel.is_cancelled() {
        caller.enter(|| discard(future));
        return Err(FromThreadError::Cancelled);
    }
    // The panic is caught here, since tokio does not record its location.
    let mut poll = |cx: &mut Context<'_>| caller.enter(|| future.as_mut().poll(cx));
    let caught = poll_fn(|cx| match catch_owned(|| poll(cx)) {
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panic) => {
            // Entering the span calls the subscriber, which is user code.
            let _ = catch(|| caller.enter(|| trace::portal_task_panicked(&panic)));
            Poll::Ready(Err(FromThreadError::Panicked(panic)))
        }
    });
    let result = cancel.run_until_cancelled(caught).await.unwrap_or(Err(FromThreadError::Cancelled));
    caller.enter(|| discard(future));
    result
}

impl_debug!([T] PortalTask<T> |this| { finished: this.is_finished(), .. });
