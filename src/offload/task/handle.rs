//! [`TaskHandle`], a task that was submitted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Level;

use super::clock_hold::ClockHold;
use super::nested::{run_nested, start_nested};
use super::task::Task;
use crate::debug::impl_debug;
use crate::offload::error::{OffloadError, OffloadErrorKind, Progress};
use crate::offload::job::{AwaitableJob, Job, Nesting, RunnableJob, SharedJob, TaskContext, TaskOptions};
use crate::offload::trace;
use crate::offload::workers::{CurrentWorkers, QueuePosition, Workers, WorkersConfig};
use crate::panic::discard;
use crate::trace::is_enabled;

/// A task that was submitted to its pool. Awaiting it returns the result.
///
/// Dropping the handle cancels the task, as dropping the future of the task does. A task that has not started never
/// runs. A task that runs is asked to stop: it continues, and its [context](TaskContext) reports that it is cancelled.
/// [`detach`](Self::detach) lets the task go on without its handle, and so does [`shield`](Task::shield). The same rule
/// applies to a [`PortalTask`](crate::offload::from_thread::PortalTask).
///
/// # Cancel safety
///
/// As described above, dropping the handle cancels the task.
#[must_use = "the task is cancelled when its handle is dropped: await the handle, or detach() it"]
pub struct TaskHandle<T> {
    /// `None` once the result was taken.
    job: Option<Arc<dyn AwaitableJob<T>>>,
    workers: Arc<Workers>,
    /// Where the task is queued, or was. `None` if it runs with the token of its caller.
    position: Option<QueuePosition>,
    deadlines: Option<Box<TaskDeadlines>>,
    clock: ClockHold,
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
        let Task { pool, work, caller, mut options, priority, max_wait, timeout } = task;
        let current = pool.current_workers().map_err(|error| refuse(error, &pool.config, &options))?;
        let CurrentWorkers { workers, place, enters } = current;
        let deadlines = TaskDeadlines::new(max_wait, timeout, options.deadline);
        if let Some(deadlines) = &deadlines {
            // The timer needs a runtime, in a CPU pool too.
            Handle::try_current().map_err(|_| refuse(OffloadErrorKind::NoRuntime.into(), &pool.config, &options))?;
            options.submitted_at = Some(deadlines.submitted_at);
            (options.start_by, options.deadline) = (deadlines.start_by, deadlines.complete_by);
        } else if is_enabled(Level::DEBUG) {
            options.submitted_at = Some(Instant::now());
        }
        let job = Arc::new(Job::new(place, options, caller.started_in(enters), work));
        let shared = Arc::clone(&job) as SharedJob;
        let position = match TaskContext::nesting(place) {
            Nesting::Outside => workers.submit(priority, shared).map(Some),
            nesting => start_nested(&workers, priority, &shared, nesting),
        };
        let position = position.map_err(|error| refuse(error, &pool.config, job.options()))?;
        let mut handle = Self { job: Some(job), workers, position, deadlines, clock: ClockHold::default() };
        // The handle may be polled late, or never.
        handle.hold_clock();
        Ok(handle)
    }
}

impl<T> TaskHandle<T> {
    /// Cancels the task, shielded or not. A task that has not started never runs, and fails with
    /// [`Cancelled`](OffloadErrorKind::Cancelled). A task that runs continues, and its [context](TaskContext) reports
    /// that it is cancelled; this handle still returns its result.
    pub fn cancel(&self) {
        if let Some(job) = &self.job {
            self.remove_from_queue();
            job.cancel();
        }
    }

    /// Lets the task go on without its handle: the task runs even if it has not started yet, its context does not
    /// report that it is cancelled, and its result is dropped on the task's thread.
    ///
    /// The time limits of the task still apply.
    pub fn detach(mut self) {
        if let Some(job) = self.job.take() {
            self.clock.hold_to_the_end();
            drop(job.abandon(Some(&self.workers.config.pool)));
        }
    }

    /// Drops the handle of a task that `stop` ends if it is running.
    #[cfg(feature = "process")]
    pub(in crate::offload) fn stop(mut self, stop: impl FnOnce()) {
        if self.cancel_if_queued() {
            if let Some(job) = self.job.take() {
                trace::left(&self.workers.config.pool, job.options());
            }
            return;
        }
        stop();
        self.forget();
    }

    /// Drops the handle of a task that is about to return: the task is neither cancelled nor reported as abandoned.
    pub(in crate::offload) fn forget(mut self) {
        if let Some(job) = self.job.take() {
            drop(job.abandon(None));
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

    /// Removes the job from the queue. No worker starts the job after that, so the caller must cancel or run the job.
    /// Returns `true` if the job was queued.
    fn remove_from_queue(&self) -> bool {
        self.position.is_some_and(|position| self.workers.remove(position))
    }

    /// Runs a queued job with the token of the task that waits for it here, if there is such a task, and nothing else is
    /// about to run the job. Returns `true` if the job is not queued any more.
    fn run_if_nested(&mut self) -> bool {
        if self.position.is_none() {
            return false;
        }
        let Some(job) = self.job.clone() else { return false };
        let is_expected = match TaskContext::nesting(job.place()) {
            Nesting::Outside => true,
            Nesting::SameRuntime => false,
            Nesting::OtherRuntime => self.workers.is_about_to_take_task(),
        };
        if is_expected || !self.remove_from_queue() {
            return false;
        }
        self.position = None;
        let job: SharedJob = job;
        if let Err(closed) = run_nested(&self.workers, &job) {
            // The waker is this caller's, which polls the job now.
            discard(job.refuse(closed));
        }
        true
    }

    /// Keeps a paused clock from advancing while a thread that the clock does not know works on the task.
    fn hold_clock(&mut self) {
        let Some(job) = &self.job else { return };
        let is_on_own_thread = self.workers.config.has_own_threads || self.position.is_none();
        if is_on_own_thread && !self.clock.is_decided {
            self.clock.hold(&self.workers, Arc::clone(job) as SharedJob);
        }
    }

    fn label(&self) -> Option<&str> {
        self.job.as_ref()?.options().label.as_deref()
    }

    /// Completes the wait.
    fn complete(&mut self, result: Result<T, OffloadError>) -> Poll<Result<T, OffloadError>> {
        let job = self.job.take();
        Poll::Ready(result.map_err(|error| match &job {
            Some(job) => of_task(error, &self.workers.config, job.options()),
            None => error,
        }))
    }

    /// Returns the error of a deadline that has passed at `now`, or the result if it is available.
    fn expire(&mut self, now: Instant) -> Option<Result<T, OffloadError>> {
        let deadlines = self.deadlines.as_mut()?;
        let waited = now.saturating_duration_since(deadlines.submitted_at);
        let is_over = deadlines.complete_by.is_some_and(|deadline| deadline <= now);
        deadlines.start_by = deadlines.start_by.filter(|at| *at > now);
        if self.cancel_if_queued() {
            let kind = if is_over { OffloadErrorKind::Timeout } else { OffloadErrorKind::QueueTimeout };
            trace::timed_out(&self.workers.config.pool, self.label(), Some(waited));
            return Some(Err(OffloadError::from(kind).after(waited)));
        }
        if !is_over {
            return None;
        }
        let job = self.job.as_ref()?;
        let result = job.abandon(Some(&self.workers.config.pool));
        job.flags().cancel();
        if result.is_none() {
            trace::overran(&self.workers.config.pool, self.label(), waited);
        }
        let timeout = || OffloadError::from(OffloadErrorKind::Timeout).with_progress(Progress::Running).after(waited);
        Some(result.unwrap_or_else(|| Err(timeout())))
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, OffloadError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let job = self.job.as_ref().expect("a task handle is not polled after it completed");
            if let Poll::Ready(result) = job.poll(cx) {
                return self.complete(result);
            }
            // After the waker is registered: it is called if no worker comes.
            if self.run_if_nested() {
                continue;
            }
            self.hold_clock();
            let Some(deadlines) = &mut self.deadlines else { return Poll::Pending };
            let Some(at) = deadlines.next() else { return Poll::Pending };
            let timer = deadlines.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            if let Some(result) = self.expire(at.max(Instant::now())) {
                return self.complete(result);
            }
        }
    }
}

impl<T> Drop for TaskHandle<T> {
    fn drop(&mut self) {
        let Some(job) = &self.job else { return };
        if !job.options().is_shielded {
            if self.cancel_if_queued() {
                return trace::left(&self.workers.config.pool, job.options());
            }
            job.flags().cancel();
        }
        self.clock.hold_to_the_end();
        let result = job.abandon(Some(&self.workers.config.pool));
        if result.is_none() {
            trace::abandoned(&self.workers.config.pool, job.options());
        }
        drop(result);
    }
}

/// Emits the event of a task that could not be submitted, and adds the pool and the label of the task to its error.
#[cold]
fn refuse(error: OffloadError, config: &WorkersConfig, options: &TaskOptions) -> OffloadError {
    trace::refused(&config.pool, options, &error);
    of_task(error, config, options)
}

/// Adds the pool and the label of the task to an error.
fn of_task(error: OffloadError, config: &WorkersConfig, options: &TaskOptions) -> OffloadError {
    error.of_task(config.pool.clone(), options.label.clone())
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
