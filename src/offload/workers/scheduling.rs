//! What a worker does next: the side of [`Workers`] that workers call.

use std::mem;
use std::sync::Arc;

use super::state::{Searcher, WorkersState};
use super::tokens::TokenAttempt;
use super::worker::Worker;
use super::workers::Workers;
use crate::offload::job::{SharedJob, TaskContext};
use crate::panic::discard;
use crate::semaphore::Tokens;
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, lock, thread_id};

/// What a worker does next.
pub(super) enum WorkerStep {
    /// The worker runs a task. If other tasks are queued, another worker was activated for them.
    Run(SharedJob),
    /// The worker runs no task, and checks the queue again. Callers that submit a task before that check rely on it if
    /// the worker is the searching one.
    Search,
    /// The worker runs no task. It is idle, or must leave its thread.
    Stop { is_idle: bool },
}

impl Workers {
    /// Decides the next step of a worker that was activated or has searched.
    pub(super) fn next_after_search(self: &Arc<Self>, worker: &mut Worker) -> WorkerStep {
        let mut state = lock(&self.state);
        if mem::take(&mut worker.is_starting) {
            self.end_start(&mut state);
        }
        let searcher = mem::take(&mut worker.searcher);
        if searcher.is_some() && searcher == state.searcher {
            state.searcher = None;
        }
        if !state.queue.is_empty() && self.acquire_token(&mut state) == TokenAttempt::Acquired {
            worker.has_token = true;
            return self.take_job(state, worker);
        }
        if let Some(nested) = self.take_nested_callers(&mut state) {
            // The worker is not idle yet: the wakers may wait for other tasks, and must not wait for this worker.
            drop(state);
            nested.wake();
            state = lock(&self.state);
        }
        self.stop(state, worker)
    }

    /// Decides the next step of a worker that has run a task. The worker takes the next task, unless its token is
    /// wanted elsewhere. Otherwise it checks the queue again.
    pub(super) fn next_after_task(self: &Arc<Self>, worker: &mut Worker) -> WorkerStep {
        let mut state = lock(&self.state);
        let keeps_token = !self.is_token_wanted_elsewhere(&state);
        if keeps_token && !state.queue.is_empty() {
            return self.take_job(state, worker);
        }
        if keeps_token && state.searcher.is_none() && state.closed.is_none() {
            worker.searcher = Some(Searcher::OnThread(thread_id()));
            state.searcher = worker.searcher;
        }
        // The worker is not idle before it searches: the waker that it calls first may wait for other tasks, and must
        // not wait for this worker.
        self.stop_and_unlock(state, worker);
        WorkerStep::Search
    }

    /// Makes a worker leave its thread. If tasks are queued and no other worker is about to check the queue, another
    /// one is activated.
    pub(super) fn retire(self: &Arc<Self>, worker: &mut Worker) -> WorkerStep {
        worker.parker = None;
        self.stop(lock(&self.state), worker)
    }

    /// Takes the next task from the queue, which must not be empty, for a worker that holds a token.
    fn take_job(self: &Arc<Self>, mut state: MutexGuard<'_, WorkersState>, worker: &mut Worker) -> WorkerStep {
        let job = state.queue.pop().expect("the callers have checked that a task is queued");
        self.recount(&mut state);
        let ran = state.record_running(worker, Arc::clone(&job));
        let (unneeded, activation) = (state.take_unneeded(), self.activation_if_needed(&mut state));
        let nested = self.take_nested_callers(&mut state);
        drop(state);
        self.give_up(unneeded);
        self.activate(activation);
        if let Some(nested) = nested {
            TaskContext::hold_token(job.place(), || nested.wake());
        }
        discard(ran);
        WorkerStep::Run(job)
    }

    /// Stops a worker from running tasks, and releases its token. If tasks are queued, another worker is activated once
    /// there is a token for it.
    fn stop(self: &Arc<Self>, mut state: MutexGuard<'_, WorkersState>, worker: &mut Worker) -> WorkerStep {
        let is_idle = state.make_idle(worker);
        self.stop_and_unlock(state, worker);
        WorkerStep::Stop { is_idle }
    }

    fn stop_and_unlock(self: &Arc<Self>, mut state: MutexGuard<'_, WorkersState>, worker: &mut Worker) {
        let stopped = self.stop_running(&mut state, worker);
        let activation = self.activation_if_needed(&mut state);
        drop(state);
        self.finish_stop(stopped);
        self.activate(activation);
    }

    /// Records that a worker runs no task at the moment, and releases its token if it holds one.
    fn stop_running(&self, state: &mut WorkersState, worker: &mut Worker) -> StoppedTask {
        let ran = state.clear_running(worker);
        self.unpublished.fetch_add(usize::from(ran.is_some()), Ordering::Relaxed);
        // The token is released with the mutex held: the next caller that submits a task finds either this worker or
        // its token.
        let holds_token = mem::take(&mut worker.has_token) && !self.tokens().try_release(Tokens::ONE);
        StoppedTask { ran, holds_token }
    }

    fn finish_stop(&self, stopped: StoppedTask) {
        if stopped.holds_token {
            self.release_token();
        }
        discard(stopped.ran);
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

/// What is left to do, without the mutex held, for a worker that runs no task any more.
struct StoppedTask {
    ran: Option<SharedJob>,
    /// Other callers wait for the worker's token.
    holds_token: bool,
}
