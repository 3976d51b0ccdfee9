//! [`TaskFuture`], a task that is awaited.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::handle::TaskHandle;
use super::task::Task;
use crate::debug::impl_debug;
use crate::offload::error::OffloadError;
use crate::offload::job::TaskContext;

/// Submits a [`Task`] when it is polled for the first time, and waits for the result.
///
/// # Cancel safety
///
/// If the future is dropped before it is polled, it has submitted nothing. If it is dropped while the task is queued,
/// the task never runs, and the closure is dropped here. If it is dropped while the task runs, the task continues,
/// since a thread can't be stopped. The task's [context](TaskContext) then reports that the task is cancelled, the task
/// keeps its token until it returns, and the result is dropped on the task's thread.
#[must_use = "futures do nothing unless polled"]
pub struct TaskFuture<F, T>(TaskFutureState<F, T>);

enum TaskFutureState<F, T> {
    New(Option<Task<F>>),
    Started(TaskHandle<T>),
}

impl<F, T> TaskFuture<F, T> {
    pub(super) fn new(task: Task<F>) -> Self {
        Self(TaskFutureState::New(Some(task)))
    }
}

impl<F, T> Future for TaskFuture<F, T>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, OffloadError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let TaskFutureState::New(task) = &mut self.0 {
            let task = task.take().expect("a task future is not polled after it completed");
            self.0 = TaskFutureState::Started(task.start()?);
        }
        match &mut self.0 {
            TaskFutureState::Started(handle) => Pin::new(handle).poll(cx),
            TaskFutureState::New(_) => unreachable!("the task was started above"),
        }
    }
}

// The closure is moved to its thread, and never polled in place.
impl<F, T> Unpin for TaskFuture<F, T> {}

impl_debug!([F, T] TaskFuture<F, T> |this| { started: matches!(this.0, TaskFutureState::Started(_)), .. });
