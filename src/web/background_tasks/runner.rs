//! The execution of background tasks.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::queue::{QueuedTask, TaskQueue};
use super::task::{BackgroundTask, Work};
use super::trace;
use crate::caller_trace::CallerTrace;
#[cfg(feature = "offload")]
use crate::offload::BlockingPool;
use crate::panic::{Panic, catch_work, discard};
use crate::watch::{Label, watch};

/// The tasks of a runner. If the runtime drops the runner, they are counted as lost.
struct Runner {
    queue: Arc<TaskQueue>,
    left: VecDeque<QueuedTask>,
    has_ended: bool,
}

/// Why a task did not succeed.
enum TaskFailure {
    Error(String),
    Panicked(Panic),
    TimedOut(Duration),
}

/// Runs the tasks of a response, one after the other, and then the tasks of waiting responses.
pub(super) async fn run_lists(queue: Arc<TaskQueue>, first: VecDeque<QueuedTask>) {
    let mut runner = Runner { queue, left: first, has_ended: false };
    loop {
        while let Some(QueuedTask { task, mut entry }) = runner.left.pop_front() {
            runner.queue.begin();
            run(task).await;
            entry.finish();
        }
        match runner.queue.next() {
            Some(next) => runner.left = next,
            None => break,
        }
    }
    runner.has_ended = true;
}

async fn run(task: BackgroundTask) {
    let BackgroundTask { name, work, timeout: limit, trace: caller, .. } = task;
    // Labels are never freed, and an owned name may come from a request.
    let label = match &name {
        Cow::Borrowed(name) => Label::from(*name),
        Cow::Owned(_) => Label::from("background task"),
    };
    let execution = watch(label, execute(work, &caller));
    let result = match limit {
        None => execution.await,
        Some(limit) => timeout(limit, execution).await.unwrap_or(Err(TaskFailure::TimedOut(limit))),
    };
    caller.enter(|| match result {
        Ok(()) => {}
        Err(TaskFailure::Error(error)) => trace::failed(&name, &error),
        Err(TaskFailure::Panicked(panic)) => trace::panicked(&name, &panic),
        Err(TaskFailure::TimedOut(limit)) => trace::timed_out(&name, limit),
    });
}

async fn execute(work: Work, caller: &CallerTrace) -> Result<(), TaskFailure> {
    let error = match work {
        Work::Async(future) => {
            let mut future = DiscardOnDrop(Some(future));
            let poll = poll_fn(|cx| {
                let Some(future) = &mut future.0 else { return Poll::Pending };
                match caller.enter(|| catch_work(|| future.as_mut().poll(cx))) {
                    Ok(poll) => poll.map(Ok),
                    Err(panic) => Poll::Ready(Err(TaskFailure::Panicked(panic))),
                }
            });
            poll.await?
        }
        #[cfg(feature = "offload")]
        Work::Blocking(work) => {
            let mut task = caller.enter(|| BlockingPool::global().task(move |_| work()));
            // The task was admitted when it was added.
            task.options.ignores_queue_bound = true;
            match task.await {
                Ok(error) => error,
                Err(error) => match error.into_panic() {
                    Ok(panic) => return Err(TaskFailure::Panicked(panic)),
                    Err(error) => Some(error.to_string()),
                },
            }
        }
    };
    error.map_or(Ok(()), |error| Err(TaskFailure::Error(error)))
}

/// Drops a user's future, whose destructor may panic.
struct DiscardOnDrop<T>(Option<T>);

impl<T> Drop for DiscardOnDrop<T> {
    fn drop(&mut self) {
        discard(self.0.take());
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if !self.has_ended {
            // The queue's runtime has ended, so the waiting tasks are dropped with the queue.
            self.queue.lose(self.left.len());
            self.left.drain(..).for_each(discard);
        }
    }
}
