//! [`ProcessFuture`] and [`ProcessHandle`], which return the result of a task.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ProcessError;
use super::platform::KillSwitch;
use super::task::ProcessTask;
use crate::debug::impl_debug;
use crate::offload::error::{OffloadError, OffloadErrorKind};
use crate::offload::task::TaskHandle;

/// Submits a [`ProcessTask`] when it is polled for the first time, and waits for the result.
///
/// # Cancel safety
///
/// If the future is dropped before it is polled, no task is submitted. If it is dropped while the task is queued, the
/// function is never called. If it is dropped while the task runs, the worker is killed with all processes that the
/// worker has started, and the next task gets a new worker. A [shielded](ProcessTask::shield) task continues.
#[must_use = "futures do nothing unless polled"]
pub struct ProcessFuture<A, R>(ProcessFutureState<A, R>);

enum ProcessFutureState<A, R> {
    New(Option<ProcessTask<A, R>>),
    Started(ProcessHandle<R>),
}

impl<A, R> ProcessFuture<A, R> {
    pub(super) fn new(task: ProcessTask<A, R>) -> Self {
        Self(ProcessFutureState::New(Some(task)))
    }
}

impl<A, R> Future for ProcessFuture<A, R>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    type Output = Result<R, ProcessError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let ProcessFutureState::New(task) = &mut self.0 {
            let task = task.take().expect("a task future is not polled after it completed");
            self.0 = ProcessFutureState::Started(task.start()?);
        }
        match &mut self.0 {
            ProcessFutureState::Started(handle) => Pin::new(handle).poll(cx),
            ProcessFutureState::New(_) => unreachable!("the task was started above"),
        }
    }
}

// The arguments are sent to another process and never polled in place.
impl<A, R> Unpin for ProcessFuture<A, R> {}

impl_debug!([A, R] ProcessFuture<A, R> |this| {
    started: matches!(this.0, ProcessFutureState::Started(_)), ..
});

/// A task that was submitted to its pool. Awaiting the handle returns the result.
///
/// Dropping the handle cancels the task, as dropping the [future](ProcessFuture) of the task does, unless the task is
/// [shielded](ProcessTask::shield). [`detach`](Self::detach) lets the task continue without its handle.
///
/// # Cancel safety
///
/// As described above, dropping the handle cancels the task.
#[must_use = "the task is cancelled when its handle is dropped: await the handle, or detach() it"]
pub struct ProcessHandle<R> {
    /// `None` once the result was taken.
    task: Option<TaskHandle<Result<R, ProcessError>>>,
    switch: Arc<KillSwitch>,
    is_shielded: bool,
    /// `true` if the timeout of the task limits its time in the queue more than its `max_wait`.
    is_timeout_first: bool,
}

impl<R> ProcessHandle<R> {
    pub(super) fn new(
        task: TaskHandle<Result<R, ProcessError>>,
        switch: Arc<KillSwitch>,
        is_shielded: bool,
        is_timeout_first: bool,
    ) -> Self {
        Self { task: Some(task), switch, is_shielded, is_timeout_first }
    }

    /// Cancels the task, even if it is shielded. A task that has not started fails with
    /// [`NotStarted`](ProcessError::NotStarted). If the task is running, its worker is killed, and the task fails with
    /// [`Cancelled`](ProcessError::Cancelled).
    pub fn cancel(&self) {
        if let Some(task) = &self.task {
            task.cancel();
            self.switch.fire();
        }
    }

    /// Lets the task continue without its handle. Its result is dropped, and its time limits still apply.
    pub fn detach(mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }

    /// Returns `true` if the result is available or was taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(TaskHandle::is_finished)
    }

    /// Returns the error of a task that did not run to its end on a thread of the pool.
    fn failure(&self, error: OffloadError) -> ProcessError {
        match error.into_panic() {
            // The code that converts the arguments or the result is the user's.
            Ok(panic) => ProcessError::Panicked(panic),
            Err(error) if self.is_timeout_first && error == OffloadErrorKind::QueueTimeout => {
                ProcessError::NotStarted(error.with_kind(OffloadErrorKind::Timeout))
            }
            Err(error) => ProcessError::NotStarted(error),
        }
    }
}

impl<R> Future for ProcessHandle<R> {
    type Output = Result<R, ProcessError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let task = self.task.as_mut().expect("a task handle is not polled after it completed");
        let Poll::Ready(result) = Pin::new(task).poll(cx) else { return Poll::Pending };
        self.task = None;
        Poll::Ready(result.unwrap_or_else(|error| Err(self.failure(error))))
    }
}

impl<R> Drop for ProcessHandle<R> {
    fn drop(&mut self) {
        // Dropping the inner handle cancels a queued task. The switch kills the worker of a running one.
        match self.task.take() {
            Some(task) if !self.is_shielded => task.stop(|| self.switch.fire()),
            // A shielded task continues.
            other => drop(other),
        }
    }
}

impl_debug!([R] ProcessHandle<R> |this| { task: this.task, shielded: this.is_shielded, .. });
