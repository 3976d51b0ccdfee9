//! [`TaskHandle`], a task that was submitted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};

use super::inline::run_inline;
use super::task::Task;
use crate::debug::impl_debug;
use crate::offload::error::OffloadError;
use crate::offload::job::AwaitableJob;
use crate::offload::job::CallerContext;
use crate::offload::job::Job;
use crate::offload::job::TaskContext;
use crate::offload::workers::{QueuePosition, Workers};

/// A task that was submitted to its pool. Awaiting it returns the result.
///
/// # Cancel safety
///
/// Dropping the handle has the same effect as dropping the future of the task: the task never runs if it has not
/// started, and continues with a cancelled [context](TaskContext) if it has, unless it is [shielded](Task::shield).
#[must_use = "the task is cancelled when its handle is dropped, unless it is shielded"]
pub struct TaskHandle<T> {
    /// `None` once the result was taken.
    job: Option<Arc<dyn AwaitableJob<T>>>,
    /// Where the task is queued. `None` if it has run inline.
    queued: Option<(Arc<Workers>, QueuePosition)>,
    deadlines: Option<Box<TaskDeadlines>>,
}

/// When the caller stops waiting.
struct TaskDeadlines {
    submitted_at: Instant,
    start_by: Option<Instant>,
    complete_by: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T: Send + 'static> TaskHandle<T> {
    pub(super) fn start<F>(task: Task<F>) -> Result<Self, OffloadError>
    where
        F: FnOnce(&TaskContext) -> T + Send + 'static,
    {
        let Task { pool, work, mut options, priority, queue_timeout, timeout } = task;
        let (workers, runtime) = pool.current_workers()?;
        let deadlines = TaskDeadlines::new(queue_timeout, timeout, options.deadline);
        if let Some(deadlines) = &deadlines {
            // The timer needs a runtime, in a CPU pool too.
            Handle::try_current().map_err(|_| OffloadError::NoRuntime)?;
            options.deadline = deadlines.complete_by;
            options.queue_window = deadlines.start_by.map(|start_by| (deadlines.submitted_at, start_by));
        }
        let job = Arc::new(Job::new(pool.config.limiter_id(), options, CallerContext::capture(runtime), work));
        let queued = if workers.contains_current_thread() {
            workers.admit_inline()?;
            run_inline(&(Arc::clone(&job) as _));
            workers.on_result_published();
            None
        } else {
            let position = workers.submit(priority, Arc::clone(&job) as _)?;
            Some((workers, position))
        };
        Ok(Self { job: Some(job), queued, deadlines })
    }
}

impl<T> TaskHandle<T> {
    /// Cancels the task, shielded or not. A task that has not started never runs, and fails with
    /// [`OffloadError::Cancelled`]. A task that runs continues, and its [context](TaskContext) reports that it is
    /// cancelled; this handle still returns its result.
    pub fn cancel(&self) {
        if let Some(job) = &self.job {
            self.remove_from_queue();
            job.cancel();
        }
    }

    /// Returns `true` if the result is available, or was taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.job.as_ref().is_none_or(|job| job.is_finished())
    }

    /// Cancels the task if it has not started. Returns `true` if the task had not started.
    fn cancel_if_queued(&self) -> bool {
        let Some(job) = &self.job else { return false };
        // Leave the queue first: the values in the closure are the user's, and dropping them may panic.
        self.remove_from_queue();
        job.cancel_if_queued()
    }

    /// Removes the job from the queue. No worker starts the job after that, so the caller must cancel the job.
    fn remove_from_queue(&self) {
        if let Some((workers, position)) = &self.queued {
            workers.remove(*position);
        }
    }

    /// Returns the error of a deadline that has passed at `now`, or the result if it is available.
    fn expire(&mut self, now: Instant) -> Option<Result<T, OffloadError>> {
        let deadlines = self.deadlines.as_mut()?;
        let submitted_at = deadlines.submitted_at;
        let is_over = deadlines.complete_by.is_some_and(|deadline| deadline <= now);
        deadlines.start_by = deadlines.start_by.filter(|at| *at > now);
        if self.cancel_if_queued() {
            return Some(Err(if is_over {
                OffloadError::Timeout { still_running: false }
            } else {
                OffloadError::QueueTimeout { waited: now.duration_since(submitted_at) }
            }));
        }
        if !is_over {
            return None;
        }
        let job = self.job.take()?;
        let result = job.abandon();
        job.flags().cancel();
        Some(result.unwrap_or(Err(OffloadError::Timeout { still_running: true })))
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, OffloadError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let job = self.job.as_ref().expect("a task handle is not polled after it completed");
            if let Poll::Ready(result) = job.poll(cx) {
                self.job = None;
                return Poll::Ready(result);
            }
            let Some(deadlines) = &mut self.deadlines else { return Poll::Pending };
            let Some(at) = deadlines.next() else { return Poll::Pending };
            let timer = deadlines.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            if let Some(result) = self.expire(at.max(Instant::now())) {
                self.job = None;
                return Poll::Ready(result);
            }
        }
    }
}

impl<T> Drop for TaskHandle<T> {
    fn drop(&mut self) {
        let Some(job) = &self.job else { return };
        if job.options().is_shielded || !self.cancel_if_queued() {
            drop(job.abandon());
        }
    }
}

impl TaskDeadlines {
    fn new(queue: Option<Duration>, total: Option<Duration>, deadline: Option<Instant>) -> Option<Box<Self>> {
        if queue.is_none() && total.is_none() && deadline.is_none() {
            return None;
        }
        let submitted_at = Instant::now();
        // A limit beyond the range of `Instant` never expires.
        let start_by = queue.and_then(|limit| submitted_at.checked_add(limit));
        let total = total.and_then(|limit| submitted_at.checked_add(limit));
        let complete_by = deadline.into_iter().chain(total).min();
        Some(Box::new(Self { submitted_at, start_by, complete_by, timer: None }))
    }

    fn next(&self) -> Option<Instant> {
        self.start_by.into_iter().chain(self.complete_by).min()
    }
}

impl_debug!([T] TaskHandle<T> |this| {
    options: this.job.as_ref().map(|job| job.options()), finished: this.is_finished(), ..
});
