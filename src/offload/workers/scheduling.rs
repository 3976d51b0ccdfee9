//! What a worker does next: the side of [`Workers`] that workers call.

use std::mem;
use std::sync::Arc;

use super::state::WorkersState;
use super::tokens::TokenAttempt;
use super::worker::Worker;
use super::workers::Workers;
use crate::offload::error::OffloadErrorKind;
use crate::offload::job::SharedJob;
use crate::panic::discard;
use crate::semaphore::Tokens;
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, lock};

/// What a worker does next.
pub(super) enum WorkerStep {
    /// The worker runs a task. If other tasks are queued, another worker was activated for them.
    Run(SharedJob),
    /// The worker checks the queue again. Callers that submit a task before that check rely on it.
    Search,
    /// The worker runs no task. It is idle, or must leave its thread.
    Stop { is_idle: bool },
}

impl Workers {
    /// Decides the next step of a worker that was activated or has searched. If no task is queued, its token is
    /// released.
    pub(super) fn next_after_search(self: &Arc<Self>, worker: &mut Worker) -> WorkerStep {
        let mut state = lock(&self.state);
        if mem::take(&mut worker.is_searching) {
            (state.is_searching, state.searcher_has_token) = (false, false);
        }
        if mem::take(&mut worker.is_starting) {
            state.is_starting = false;
        }
        if state.queue.is_empty() {
            return self.stop(state, worker);
        }
        if !worker.has_token {
            match self.acquire_token(&mut state) {
                TokenAttempt::Acquired => worker.has_token = true,
                TokenAttempt::Queued => return self.stop(state, worker),
                TokenAttempt::LimiterClosed => {
                    let step = self.stop(state, worker);
                    self.close(OffloadErrorKind::Closed);
                    return step;
                }
            }
        }
        self.take_job(state, worker)
    }

    /// Records the job with which a worker has come to its thread.
    pub(super) fn begin(&self, worker: &mut Worker, job: SharedJob) -> WorkerStep {
        let mut state = lock(&self.state);
        state.started += 1;
        let ran = state.record_running(worker, Arc::clone(&job));
        drop(state);
        self.on_result_published();
        debug_assert!(ran.is_none(), "the job is the worker's first one");
        WorkerStep::Run(job)
    }

    /// Decides the next step of a worker that has run a task. The worker takes the next task, unless its token is
    /// wanted elsewhere. If no task is queued, it searches.
    pub(super) fn next_after_task(self: &Arc<Self>, worker: &mut Worker) -> WorkerStep {
        let mut state = lock(&self.state);
        if self.is_token_wanted_elsewhere(&state) {
            return self.yield_token(state, worker);
        }
        if !state.queue.is_empty() {
            return self.take_job(state, worker);
        }
        if state.is_searching || state.closed.is_some() {
            return self.stop(state, worker);
        }
        (state.is_searching, worker.is_searching) = (true, true);
        // A task that has ended must not appear as running to the caller that is woken for its result.
        self.stop_running(state, worker);
        WorkerStep::Search
    }

    /// Makes a worker leave its thread. If tasks are queued and no other worker is about to check the queue, a new
    /// worker is spawned, which inherits the token.
    pub(super) fn retire(self: &Arc<Self>, worker: &mut Worker) -> WorkerStep {
        worker.parker = None;
        let mut state = lock(&self.state);
        if state.queue.is_empty() || state.is_searching || state.is_starting || self.is_token_wanted_elsewhere(&state) {
            return self.yield_token(state, worker);
        }
        (state.is_starting, worker.has_token) = (true, false);
        self.stop_running(state, worker);
        self.spawn_worker();
        WorkerStep::Stop { is_idle: false }
    }

    /// Takes the next task from the queue, which must not be empty, for a worker that holds a token.
    fn take_job(self: &Arc<Self>, mut state: MutexGuard<'_, WorkersState>, worker: &mut Worker) -> WorkerStep {
        let job = state.queue.pop().expect("the callers have checked that a task is queued");
        self.config.uncount_queued(1);
        state.started += 1;
        let ran = state.record_running(worker, Arc::clone(&job));
        let (unneeded, activation) = (state.take_unneeded_token_wait(), self.activation_if_needed(&mut state));
        drop(state);
        self.cancel_token_wait(unneeded);
        self.activate(activation);
        discard(ran);
        WorkerStep::Run(job)
    }

    /// Stops a worker from running tasks, even if tasks are queued, and releases its token.
    fn stop(&self, mut state: MutexGuard<'_, WorkersState>, worker: &mut Worker) -> WorkerStep {
        let is_idle = state.make_idle(worker);
        self.stop_running(state, worker);
        WorkerStep::Stop { is_idle }
    }

    /// Stops a worker whose token is wanted elsewhere. If tasks are queued, another worker is activated once there is a
    /// token for it.
    fn yield_token(self: &Arc<Self>, mut state: MutexGuard<'_, WorkersState>, worker: &mut Worker) -> WorkerStep {
        let activation = self.activation_if_needed(&mut state);
        let step = self.stop(state, worker);
        self.activate(activation);
        step
    }

    /// Records that a worker runs no task at the moment, and releases its token if it holds one.
    fn stop_running(&self, mut state: MutexGuard<'_, WorkersState>, worker: &mut Worker) {
        let ran = state.clear_running(worker);
        self.unpublished.fetch_add(usize::from(ran.is_some()), Ordering::Relaxed);
        // The token is released with the mutex held: the next caller that submits a task finds either this worker or
        // its token.
        let must_wake_waiter = mem::take(&mut worker.has_token) && !self.tokens().try_release(Tokens::ONE);
        drop(state);
        if must_wake_waiter {
            self.release_token();
        }
        discard(ran);
    }

    /// Records that the result of a task that is no longer running was published.
    pub(crate) fn on_result_published(&self) {
        // Either a caller that waits until the pool is drained sees this decrement, or this thread sees that the pool
        // was closed, and wakes that caller.
        self.unpublished.fetch_sub(1, Ordering::SeqCst);
        if self.config.is_closed() {
            self.notify_if_drained();
        }
    }
}
