//! [`PortalTask`], async code that a portal runs.

use std::future::poll_fn;
use std::task::Poll;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::FromThreadError;
use super::executor::ThreadExecutor;
use super::portal::Portal;
use crate::debug::impl_debug;
use crate::panic::{Panic, catch, discard};
use crate::park::runs_async_tasks;

/// Async code that a [`Portal`] runs. Created by [`Portal::spawn`].
///
/// Dropping the handle does not end the task as long as the portal exists.
#[must_use = "the task continues if its handle is dropped, and its result is lost"]
pub struct PortalTask<T> {
    task: JoinHandle<Result<T, FromThreadError>>,
    cancel: CancellationToken,
    /// Keeps the portal open while a caller waits.
    _portal: Portal,
}

impl<T: Send + 'static> PortalTask<T> {
    pub(super) fn spawn<F>(portal: Portal, cancel: CancellationToken, future: F) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let work = run(future, cancel.clone());
        Self { task: portal.runtime().spawn(work), cancel, _portal: portal }
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// Returns [`FromThreadError::Panicked`] if the task panicked, [`Cancelled`](FromThreadError::Cancelled) if it was
    /// cancelled, [`Closed`](FromThreadError::Closed) if its runtime was shut down, and
    /// [`BlockingInAsync`](FromThreadError::BlockingInAsync) on a thread that runs async tasks. In that last case the
    /// task continues.
    pub fn wait(self) -> Result<T, FromThreadError> {
        if runs_async_tasks() {
            return Err(FromThreadError::BlockingInAsync);
        }
        ThreadExecutor::current().block_on(self.task).unwrap_or_else(|error| match error.try_into_panic() {
            Ok(payload) => Err(FromThreadError::Panicked(Panic::from_payload(payload))),
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

    /// Returns `true` if the task has ended, so that [`wait`](Self::wait) would not block.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// Runs a future until it completes, panics or is cancelled.
async fn run<F: Future>(future: F, cancel: CancellationToken) -> Result<F::Output, FromThreadError> {
    let mut future = Box::pin(future);
    // The panic is caught here, since tokio does not record its location.
    let caught = poll_fn(|cx| match catch(|| future.as_mut().poll(cx)) {
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panic) => Poll::Ready(Err(FromThreadError::Panicked(panic))),
    });
    let result = cancel.run_until_cancelled(caught).await.unwrap_or(Err(FromThreadError::Cancelled));
    discard(future);
    result
}

impl_debug!([T] PortalTask<T> |this| { finished: this.is_finished(), .. });
