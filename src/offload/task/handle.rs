//! [`TaskHandle`], a task that was handed over.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};

use super::caller_context::CallerContext;
use super::context::TaskContext;
use super::inline;
use super::job::{Job, Outcome};
use super::task::Task;
use crate::offload::error::OffloadError;
use crate::offload::workers::{Place, Workers};

/// A task that was handed over to its pool. Awaiting it gives the result.
///
/// # Cancel safety
///
/// Dropping it is dropping the future of the task: it never runs if it has not begun, and goes on with a cancelled
/// [context](TaskContext) if it has, unless it is [shielded](Task::shield).
#[must_use = "the task is cancelled when its handle is dropped, unless it is shielded"]
pub struct TaskHandle<T> {
    /// `None` once the result was taken.
    job: Option<Arc<dyn Outcome<T>>>,
    /// Where it waits. `None` if it was run on the spot.
    waits: Option<(Arc<Workers>, Place)>,
    limits: Option<Box<Limits>>,
}

/// When the caller stops to wait.
struct Limits {
    since: Instant,
    /// For a thread.
    queue: Option<Instant>,
    /// For the result.
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T: Send + 'static> TaskHandle<T> {
    pub(super) fn start<F>(task: Task<F>) -> Result<Self, OffloadError>
    where
        F: FnOnce(&TaskContext) -> T + Send + 'static,
    {
        let Task { pool, work, mut terms, priority, queue_timeout, timeout } = task;
        let (crew, runtime) = pool.crew()?;
        let limits = Limits::new(queue_timeout, timeout, terms.deadline);
        if let Some(limits) = &limits {
            // Its timer.
            Handle::try_current().map_err(|_| OffloadError::NoRuntime)?;
            terms.deadline = limits.deadline;
            terms.begins_by = limits.queue.map(|at| (limits.since, at));
        }
        let job = Arc::new(Job::new(pool.rules.limiter_id(), terms, CallerContext::here(runtime), work));
        let waits = if crew.is_here() {
            crew.admit_inline()?;
            inline::run(&(Arc::clone(&job) as _));
            crew.has_published();
            None
        } else {
            let place = crew.submit(priority, Arc::clone(&job) as _)?;
            Some((crew, place))
        };
        Ok(Self { job: Some(job), waits, limits })
    }
}

impl<T> TaskHandle<T> {
    /// Cancels the task, shielded or not: one that has not begun never will, and fails with [`OffloadError::Cancelled`]; one
    /// that runs goes on, and its [context](TaskContext) tells it that nobody waits. Its result still comes here.
    pub fn cancel(&self) {
        if let Some(job) = &self.job {
            self.leave_queue();
            job.cancel();
        }
    }

    /// Whether the result is there, or was taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.job.as_ref().is_none_or(|job| job.is_finished())
    }

    /// Takes the task back if it has not begun. Whether that was so.
    fn withdraw(&self) -> bool {
        let Some(job) = &self.job else { return false };
        // First, as what the closure holds is the user's, and may panic when it is dropped.
        self.leave_queue();
        job.withdraw()
    }

    /// Once it has left the queue it is not begun, and must be withdrawn.
    fn leave_queue(&self) {
        if let Some((crew, place)) = &self.waits {
            crew.forget(*place);
        }
    }

    /// Does what is due at `now`.
    fn time_out(&mut self, now: Instant) -> Option<Result<T, OffloadError>> {
        let limits = self.limits.as_mut()?;
        let (since, is_over) = (limits.since, limits.deadline.is_some_and(|deadline| deadline <= now));
        limits.queue = limits.queue.filter(|at| *at > now);
        if self.withdraw() {
            let waited = now.duration_since(since);
            return Some(Err(if is_over {
                OffloadError::Timeout { still_running: false }
            } else {
                OffloadError::QueueTimeout { waited }
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
            let job = self.job.as_ref().expect("a future is not polled after its end");
            if let Poll::Ready(result) = job.poll(cx) {
                self.job = None;
                return Poll::Ready(result);
            }
            let Some(limits) = &mut self.limits else { return Poll::Pending };
            let Some(at) = limits.next() else { return Poll::Pending };
            let timer = limits.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            if let Some(result) = self.time_out(at.max(Instant::now())) {
                self.job = None;
                return Poll::Ready(result);
            }
        }
    }
}

impl<T> Drop for TaskHandle<T> {
    fn drop(&mut self) {
        let Some(job) = &self.job else { return };
        if job.terms().is_shielded || !self.withdraw() {
            drop(job.abandon());
        }
    }
}

impl Limits {
    fn new(queue: Option<Duration>, total: Option<Duration>, deadline: Option<Instant>) -> Option<Box<Self>> {
        if queue.is_none() && total.is_none() && deadline.is_none() {
            return None;
        }
        let since = Instant::now();
        // What is too far away to be told never comes.
        let queue = queue.and_then(|limit| since.checked_add(limit));
        let total = total.and_then(|limit| since.checked_add(limit));
        let deadline = deadline.into_iter().chain(total).min();
        Some(Box::new(Self { since, queue, deadline, timer: None }))
    }

    fn next(&self) -> Option<Instant> {
        self.queue.into_iter().chain(self.deadline).min()
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = self.job.as_ref().map(|job| job.terms());
        f.debug_struct("TaskHandle")
            .field("terms", &terms)
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
