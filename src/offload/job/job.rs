//! [`Job`], one task on its way from the caller to a thread and back.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::caller_context::CallerContext;
use super::context::{TaskContext, TaskOptions, TaskPlace};
use super::erased_job::{AwaitableJob, CallerFlags, RunnableJob, SharedJob};
use crate::debug::impl_debug;
use crate::detached::DetachedEntry;
use crate::offload::error::{OffloadError, OffloadErrorKind};
use crate::offload::trace;
use crate::panic::{catch, catch_owned, discard};
use crate::sync::{Mutex, lock};
use crate::wake::wake;
use crate::waker_slot::WakerSlot;

/// The closure of a task until it runs, and its result from then on.
pub(crate) struct Job<F, T> {
    place: TaskPlace,
    flags: CallerFlags,
    options: TaskOptions,
    caller: CallerContext,
    state: Mutex<JobState<F, T>>,
}

enum JobState<F, T> {
    Queued {
        work: F,
        waker: WakerSlot,
        /// Set once the caller is gone: the process knows the work until it has run.
        detached: Option<DetachedEntry>,
    },
    Running {
        waker: WakerSlot,
        detached: Option<DetachedEntry>,
    },
    /// The job has run, and its result is not published yet.
    Ran {
        result: Result<T, OffloadError>,
        waker: WakerSlot,
    },
    Published(Result<T, OffloadError>),
    /// The result was taken, or is not wanted.
    Taken,
}

impl<F, T> Job<F, T> {
    pub(crate) fn new(place: TaskPlace, options: TaskOptions, caller: CallerContext, work: F) -> Self {
        let state = Mutex::new(JobState::Queued { work, waker: WakerSlot::new(), detached: None });
        Self { place, flags: CallerFlags::default(), options, caller, state }
    }

    /// Takes the closure to run it. Returns `None` if the job must not run.
    fn start(&self, pool: &str) -> Option<F> {
        let expired = self.expiry_error();
        let mut state = lock(&self.state);
        match (mem::replace(&mut *state, JobState::Taken), expired) {
            (JobState::Queued { work, waker, detached }, None) => {
                *state = JobState::Running { waker, detached };
                self.flags.start();
                Some(work)
            }
            (JobState::Queued { work, waker, .. }, Some(error)) => {
                let waited = error.waited();
                *state = JobState::Ran { result: Err(error), waker };
                drop(state);
                self.emit(|| trace::timed_out(pool, self.options.label.as_deref(), waited));
                self.discard_on_thread(work);
                None
            }
            // The job was cancelled after it left the queue.
            (other, _) => {
                *state = other;
                None
            }
        }
    }

    /// Ends a job that has not started. Returns what is left of it, to be dropped without the mutex held: the values
    /// are the user's. Returns `None` if the job has started, or has ended.
    fn take_queued(&self, end: JobState<F, T>) -> Option<(F, WakerSlot)> {
        let mut state = lock(&self.state);
        if !matches!(*state, JobState::Queued { .. }) {
            return None;
        }
        let queued = mem::replace(&mut *state, end);
        drop(state);
        match queued {
            JobState::Queued { work, waker, .. } => Some((work, waker)),
            _ => unreachable!("the state was checked with the mutex held"),
        }
    }

    /// Returns the error of a job that must not start because one of its deadlines has passed.
    fn expiry_error(&self) -> Option<OffloadError> {
        let TaskOptions { submitted_at, deadline, start_by, .. } = &self.options;
        let submitted_at = (*submitted_at)?;
        let now = self.caller.now();
        let kind = match start_by {
            _ if deadline.is_some_and(|deadline| deadline <= now) => Some(OffloadErrorKind::Timeout),
            Some(start_by) if *start_by <= now => Some(OffloadErrorKind::QueueTimeout),
            _ => None,
        };
        kind.map(|kind| OffloadError::from(kind).after(now.saturating_duration_since(submitted_at)))
    }

    /// Emits an event in the caller's span.
    #[cold]
    fn emit(&self, event: impl FnOnce()) {
        // Entering the span calls the subscriber, which is user code.
        let _ = catch(|| self.caller.enter(event));
    }

    /// Drops a value of the user on a thread that holds a token for this job. Its destructor may block, or use the
    /// runtime, as the closure may.
    fn discard_on_thread<V>(&self, value: V) {
        TaskContext::hold_token(self.place, || self.caller.enter_runtime(|| discard(value)));
    }

    /// Keeps the result if it is still wanted.
    fn finish(&self, result: Result<T, OffloadError>) {
        let mut state = lock(&self.state);
        match mem::replace(&mut *state, JobState::Taken) {
            JobState::Running { waker, .. } if !self.flags.is_abandoned() => *state = JobState::Ran { result, waker },
            mut unwanted => {
                drop(state);
                if let JobState::Running { detached: Some(detached), .. } = &mut unwanted {
                    detached.finish();
                }
                // Drop the values one by one: a second panic during unwinding would abort the process.
                self.discard_on_thread(result);
                discard(unwanted);
            }
        }
    }
}

impl<F, T> JobState<F, T> {
    /// Returns the slot of the caller's waker, unless the result is available.
    fn waker(&mut self) -> Option<&mut WakerSlot> {
        match self {
            Self::Queued { waker, .. } | Self::Running { waker, .. } | Self::Ran { waker, .. } => Some(waker),
            Self::Published(_) | Self::Taken => None,
        }
    }

    fn into_result(self) -> Option<Result<T, OffloadError>> {
        match self {
            Self::Ran { result, .. } | Self::Published(result) => Some(result),
            Self::Queued { .. } | Self::Running { .. } | Self::Taken => None,
        }
    }
}

impl<F, T> RunnableJob for Job<F, T>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    fn run(self: Arc<Self>, pool: &str) {
        let Some(work) = self.start(pool) else { return };
        let cx = TaskContext(Arc::clone(&self) as SharedJob);
        let run = || cx.clone().enter(|| self.caller.enter(|| work(&cx)));
        let result = catch_owned(run).map_err(|panic| {
            self.emit(|| trace::panicked(pool, self.options.label.as_deref(), &panic));
            OffloadError::panicked(panic)
        });
        self.finish(result);
    }

    fn publish(&self) -> Option<Waker> {
        let mut state = lock(&self.state);
        match mem::replace(&mut *state, JobState::Taken) {
            JobState::Ran { result, mut waker } => {
                *state = JobState::Published(result);
                waker.take()
            }
            other => {
                *state = other;
                None
            }
        }
    }

    fn refuse(&self, why: OffloadError) -> Option<Waker> {
        let (work, mut waker) = self.take_queued(JobState::Published(Err(why)))?;
        discard(work);
        waker.take()
    }

    fn take_waker(&self) -> Option<Waker> {
        lock(&self.state).waker()?.take()
    }

    fn flags(&self) -> &CallerFlags {
        &self.flags
    }

    fn options(&self) -> &TaskOptions {
        &self.options
    }

    fn place(&self) -> TaskPlace {
        self.place
    }

    fn is_finished(&self) -> bool {
        matches!(*lock(&self.state), JobState::Published(_) | JobState::Taken)
    }
}

impl<F, T> AwaitableJob<T> for Job<F, T>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    fn poll(&self, cx: &Context<'_>) -> Poll<Result<T, OffloadError>> {
        // The waker is cloned and dropped without the mutex held: wakers are user code.
        let mut spare = None;
        loop {
            let mut state = lock(&self.state);
            let Some(slot) = state.waker() else {
                let result = mem::replace(&mut *state, JobState::Taken).into_result();
                drop(state);
                return Poll::Ready(result.expect("a task is not polled after it completed"));
            };
            if slot.register(cx.waker(), &mut spare) {
                return Poll::Pending;
            }
            drop(state);
            spare = Some(cx.waker().clone());
        }
    }

    fn cancel_if_queued(&self) -> bool {
        let Some((work, waker)) = self.take_queued(JobState::Taken) else { return false };
        // Drop the values one by one: a second panic during unwinding would abort the process.
        discard(work);
        discard(waker);
        true
    }

    fn abandon(&self, pool: Option<&str>) -> Option<Result<T, OffloadError>> {
        self.flags.abandon();
        self.caller.release_scopes();
        let mut state = lock(&self.state);
        match &mut *state {
            JobState::Queued { waker, detached, .. } | JobState::Running { waker, detached } => {
                *detached = pool.map(DetachedEntry::outliving_server);
                let unwanted = waker.take();
                drop(state);
                drop(unwanted);
                None
            }
            JobState::Ran { .. } | JobState::Published(_) | JobState::Taken => {
                mem::replace(&mut *state, JobState::Taken).into_result()
            }
        }
    }

    fn cancel(&self) {
        self.flags.cancel();
        wake(self.refuse(OffloadErrorKind::Cancelled.into()));
    }
}

impl_debug!([F, T] Job<F, T> |this| { flags: this.flags, options: this.options, .. });
