//! [`Workers`], the threads of one runtime that work for a pool, and the tasks queued for them.
//!
//! A thread that has run a task takes the next one from the queue, and a thread that finds none stays for a short
//! while. So a few threads do much of the work, and the pool asks the runtime for a thread only when one is missing.
//!
//! # Invariants
//!
//! 1. A worker that runs tasks holds one token of the pool's limiter. It keeps the token between tasks, unless other
//!    callers wait for one, or more tokens are held than the total allows.
//! 2. At most one worker is *searching*: on its thread, about to check the queue. It holds a token if it was activated;
//!    if it has just run a task, it acquires one for the task that it finds. At most one worker is *starting*: it holds
//!    a token, and does not have its thread yet. No worker is activated while one is searching, and none is spawned
//!    while one is starting. Each of them activates the next one before it runs the task that it has found.
//! 3. While tasks are queued, a worker is searching or starting, or the workers are in the limiter's queue, and the
//!    grant activates a worker.
//! 4. Lock order: the workers' mutex, then the limiter's. No waker is called and no user value is dropped with either
//!    mutex held.

use std::mem;
use std::sync::Arc;
use std::task::Waker;

use super::config::WorkersConfig;
use super::parker::{Parker, UnparkReason};
use super::queue::QueuePosition;
use super::state::{WorkersSnapshot, WorkersState};
use super::threads::{SpawnError, WorkerThreads};
use super::tokens::{TokenAttempt, TokenWaker};
use super::worker::Worker;
use crate::debug::impl_debug;
use crate::offload::error::{OffloadError, OffloadErrorKind};
use crate::offload::job::{Priority, SharedJob};
use crate::offload::trace;
use crate::panic::discard;
use crate::semaphore::Tokens;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::wake::wake;

/// Queued tasks, and the threads that run them.
pub(crate) struct Workers {
    pub(crate) config: Arc<WorkersConfig>,
    threads: Box<dyn WorkerThreads>,
    /// Called when a token is granted.
    pub(super) token_waker: Waker,
    pub(super) state: Mutex<WorkersState>,
    /// Tasks that are no longer running and whose results are not published yet, and tasks that a worker has taken to
    /// the thread that it waits for. Incremented with the mutex held.
    pub(super) unpublished: AtomicUsize,
}

/// What must be done, without the mutex held, so that a worker runs the next task.
pub(super) enum WorkerActivation {
    Unpark(Arc<Parker>),
    Spawn,
    /// No worker will run the task: the limiter was closed.
    Close,
}

impl Workers {
    pub(crate) fn new(config: Arc<WorkersConfig>, threads: Box<dyn WorkerThreads>) -> Arc<Self> {
        Arc::new_cyclic(|this| {
            let token_waker = TokenWaker::of(this);
            Self { config, threads, token_waker, state: Mutex::default(), unpublished: AtomicUsize::new(0) }
        })
    }

    /// Queues a task.
    pub(crate) fn submit(self: &Arc<Self>, priority: Priority, job: SharedJob) -> Result<QueuePosition, OffloadError> {
        if self.tokens().is_closed() {
            self.close(OffloadErrorKind::Closed);
        }
        let mut state = lock(&self.state);
        self.check_open(&state)?;
        // The tasks that use these tokens wait only for a thread, not for other tasks.
        let starting_soon =
            self.tokens().available() + usize::from(state.searcher_has_token) + usize::from(state.is_starting);
        let extra = if job.options().ignores_queue_bound { usize::MAX } else { starting_soon };
        if !self.config.try_count_queued(extra) {
            state.refused += 1;
            return Err(OffloadError::full(self.config.queued()));
        }
        let position = state.queue.push(priority, job);
        let activation = self.activation_if_needed(&mut state);
        drop(state);
        self.activate(activation);
        Ok(position)
    }

    /// Counts a task that the caller runs itself, with the token that the caller already holds. The caller
    /// [reports](Self::on_result_published) the end of the task.
    pub(crate) fn admit_inline(&self) -> Result<(), OffloadError> {
        let mut state = lock(&self.state);
        self.check_open(&state)?;
        state.started += 1;
        self.unpublished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Runs a job on a thread, with a token that is free now. Returns `false` if no token is free, or if no thread can
    /// be started for the job.
    ///
    /// The job is not queued: it must not wait for a token, since its caller holds one.
    pub(crate) fn try_start(self: &Arc<Self>, job: &SharedJob) -> Result<bool, OffloadError> {
        let state = lock(&self.state);
        self.check_open(&state)?;
        if self.tokens().try_acquire(Tokens::ONE).is_err() {
            return Ok(false);
        }
        // The pool is not drained while the job waits for its thread.
        self.unpublished.fetch_add(1, Ordering::Relaxed);
        drop(state);
        let Err(SpawnError { worker, cause }) = self.threads.spawn(Worker::with_job(self, job)) else {
            return Ok(true);
        };
        worker.disarm();
        trace::thread_missing(&self.config.pool, &cause);
        self.on_result_published();
        self.release_token();
        Ok(false)
    }

    fn check_open(&self, state: &WorkersState) -> Result<(), OffloadError> {
        match &state.closed {
            Some(why) => Err((*why).into()),
            // The pool is being closed, and these workers are about to be closed.
            None if self.config.is_closed() => Err(OffloadErrorKind::Closed.into()),
            None => Ok(()),
        }
    }

    /// Removes a task from the queue if it is still there.
    pub(crate) fn remove(&self, position: QueuePosition) {
        let mut state = lock(&self.state);
        let removed = state.queue.remove(position);
        let unneeded = state.take_unneeded_token_wait();
        drop(state);
        self.config.uncount_queued(usize::from(removed.is_some()));
        self.cancel_token_wait(unneeded);
        drop(removed);
    }

    /// Ends the idle workers, and from now on every worker that finds no task: no more tasks will be submitted.
    pub(super) fn release_idle(&self) {
        let mut state = lock(&self.state);
        state.is_released = true;
        let idle = mem::take(&mut state.idle);
        drop(state);
        idle.iter().for_each(|worker| worker.unpark(UnparkReason::Exit));
    }

    /// Refuses all queued tasks and all future ones.
    pub(crate) fn close(&self, why: OffloadErrorKind) {
        let mut state = lock(&self.state);
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(why);
        let idle = mem::take(&mut state.idle);
        self.refuse_queued(state, &why.into());
        idle.iter().for_each(|worker| worker.unpark(UnparkReason::Exit));
        self.notify_if_drained();
    }

    fn refuse_queued(&self, mut state: MutexGuard<'_, WorkersState>, why: &OffloadError) {
        let (jobs, wait) = (state.queue.drain(), state.token_wait.take());
        drop(state);
        self.config.uncount_queued(jobs.len());
        self.cancel_token_wait(wait);
        for job in jobs {
            trace::refused(&self.config.pool, job.options(), why);
            wake(job.refuse(why.clone()));
            discard(job);
        }
    }

    /// Returns `true` if tasks are queued, none is running, and there is no token.
    pub(crate) fn is_stalled(&self) -> bool {
        let state = lock(&self.state);
        state.token_wait.is_some() && state.running.iter().all(Option::is_none)
    }

    pub(crate) fn snapshot(&self) -> WorkersSnapshot {
        let state = lock(&self.state);
        let running = state.running.iter().flatten().cloned().collect();
        let (queued, idle) = (state.queue.len(), state.idle.len());
        WorkersSnapshot { running, queued, idle, started: state.started, refused: state.refused }
    }

    /// Chooses a worker to activate if tasks are queued and there is a token for one more of them. If there is no
    /// token, the workers enter the limiter's queue.
    pub(super) fn activation_if_needed(self: &Arc<Self>, state: &mut WorkersState) -> Option<WorkerActivation> {
        if !state.needs_worker() {
            return None;
        }
        match self.acquire_token(state) {
            TokenAttempt::Acquired => Some(state.activate_worker()),
            TokenAttempt::Queued => None,
            TokenAttempt::LimiterClosed => Some(WorkerActivation::Close),
        }
    }

    /// Activates a worker, or closes the workers. Must be called without the mutex held.
    pub(super) fn activate(self: &Arc<Self>, activation: Option<WorkerActivation>) {
        match activation {
            None => {}
            Some(WorkerActivation::Unpark(worker)) => worker.unpark(UnparkReason::Work),
            Some(WorkerActivation::Spawn) => self.spawn_worker(),
            Some(WorkerActivation::Close) => self.close(OffloadErrorKind::Closed),
        }
    }

    /// Spawns the starting worker, which holds a token.
    pub(super) fn spawn_worker(self: &Arc<Self>) {
        let Err(SpawnError { worker, cause }) = self.threads.spawn(Worker::new(Arc::clone(self))) else { return };
        worker.disarm();
        trace::thread_missing(&self.config.pool, &cause);
        let mut state = lock(&self.state);
        state.is_starting = false;
        // Workers that are on their threads will check the queue for the remaining tasks.
        let is_hopeless = state.idle.is_empty() && !state.is_searching && state.running.iter().all(Option::is_none);
        if is_hopeless {
            self.refuse_queued(state, &OffloadError::from(OffloadErrorKind::NoThread).with_source(cause));
        } else {
            drop(state);
        }
        self.release_token();
    }

    /// Returns `true` if the workers are closed, no task is running, and all results are published.
    pub(crate) fn is_drained(&self) -> bool {
        // Acquire pairs with the decrement after a result is published.
        lock(&self.state).is_drained() && self.unpublished.load(Ordering::Acquire) == 0
    }

    pub(super) fn notify_if_drained(&self) {
        if self.is_drained() {
            self.config.notify_drained();
        }
    }

    /// Removes a worker from the idle ones. Returns `false` if the worker was unparked in the meantime.
    pub(super) fn remove_idle(&self, parker: &Arc<Parker>) -> bool {
        let mut state = lock(&self.state);
        let index = state.idle.iter().position(|idle| Arc::ptr_eq(idle, parker));
        index.map(|index| state.idle.remove(index)).is_some()
    }

    /// Called when a worker is dropped before it had a thread, since there will be no more threads.
    pub(super) fn on_worker_lost(&self, job: Option<SharedJob>) {
        match job {
            None => lock(&self.state).is_starting = false,
            Some(job) => {
                wake(job.refuse(OffloadErrorKind::RuntimeShutdown.into()));
                discard(job);
                self.on_result_published();
            }
        }
        self.close(OffloadErrorKind::RuntimeShutdown);
        self.release_token();
    }
}

impl_debug!(Workers |this| { pool: this.config.pool, .. });
