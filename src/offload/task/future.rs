//! [`TaskFuture`], a task that is awaited.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::context::TaskContext;
use super::handle::TaskHandle;
use super::task::Task;
use crate::offload::error::OffloadError;

/// Hands a [`Task`] over when it is polled for the first time, and waits for its result.
///
/// # Cancel safety
///
/// Dropped before it is polled, nothing was handed over. Dropped while the task waits for a thread, the task never runs, and
/// what its closure holds is dropped here. Dropped while it runs, it goes on: a thread can't be stopped. Its
/// [context](TaskContext) tells it so, it keeps its permit until it returns, and its result is dropped on its thread.
#[must_use = "futures do nothing unless polled"]
pub struct TaskFuture<F, T>(Stage<F, T>);

enum Stage<F, T> {
    New(Option<Task<F>>),
    Started(TaskHandle<T>),
}

impl<F, T> TaskFuture<F, T> {
    pub(super) fn new(task: Task<F>) -> Self {
        Self(Stage::New(Some(task)))
    }
}

impl<F, T> Future for TaskFuture<F, T>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, OffloadError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::New(task) = &mut self.0 {
            let task = task.take().expect("a future is not polled after its end");
            self.0 = Stage::Started(task.start()?);
        }
        match &mut self.0 {
            Stage::Started(handle) => Pin::new(handle).poll(cx),
            Stage::New(_) => unreachable!("it was started above"),
        }
    }
}

// The closure is moved to its thread, and never polled in place.
impl<F, T> Unpin for TaskFuture<F, T> {}

impl<F, T> fmt::Debug for TaskFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Stage::New(task) => f.debug_tuple("TaskFuture").field(task).finish(),
            Stage::Started(handle) => f.debug_tuple("TaskFuture").field(handle).finish(),
        }
    }
}
