//! [`Workers`], the threads of one runtime that work for a pool, and the tasks queued for them.
//!
//! A thread that has run a task takes the next one from the queue, and a thread that finds none stays for a short
//! while. So a few threads do much of the work, and the pool asks the runtime for a thread only when one is missing.
//!
//! # Invariants
//!
//! 1. A worker that runs tasks holds one token of the pool's limiter. It keeps the token between tasks, unless other
//!    callers wait for one, or more tokens are held than the total allows.
//! 2. At most one worker is *searching*: on its thread, about to check the queue. At most one worker is *starting*: it
//!    does not have its thread yet, and may never get one. Neither holds a token: each acquires one for the task that
//!    it finds. No worker is activated while one is searching, and none is spawned while one is starting. Each of them
//!    activates the next one before it runs the task that it has found.
//! 3. While tasks are queued, a worker is searching or starting, or the workers are in the limiter's queue, and the
//!    grant activates a worker, or a worker that runs a task will check the queue after it.
//! 4. A token that the limiter's queue has granted belongs to the next worker that takes a task. The token waits for a
//!    starting worker only for a limited time, and is released when no task is queued.
//! 5. A queued task has the *promise* of a free token, or the granted token, or it is waiting. Only waiting tasks count
//!    for the bound of the queue. While the starting worker is *late*, the limiter does not know the promises, so that
//!    others can use the tokens. Once the worker has its thread, the tasks get as many promises as the limiter still has.
//! 6. While a worker is starting, the workers are watched: a thread is requested again for a late one.
//! 7. The caller of a nested task waits only while a worker is searching or starting, and there is a token for it. No
//!    token is reserved for that worker, so whatever ends its search or its start, or takes the granted token away,
//!    wakes such callers if no other worker is expected.
//! 8. Lock order: the workers' mutex, then the limiter's promises, then its semaphore. No waker is called and no user
//!    value is dropped with one of them held.

use std::mem;
use std::sync::Arc;
use std::task::Waker;

use super::config::WorkersConfig;
use super::nested_tasks::NestedCallers;
use super::parker::{Parker, UnparkReason};
use super::queue::QueuePosition;
use super::state::{Searcher, ThreadWait, WorkersSnapshot, WorkersState};
use super::threads::{SpawnError, WorkerThreads};
use super::tokens::{TokenAttempt, TokenWaker};
use super::worker::Worker;
use crate::debug::impl_debug;
use crate::offload::error::{OffloadError, OffloadErrorKind};
use crate::offload::job::{Priority, SharedJob};
use crate::offload::trace;
use crate::panic::discard;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{CacheAligned, Mutex, MutexGuard, lock, thread_id};
use crate::wake::wake;

/// Queued tasks, and the threads that run them.
pub(crate) struct Workers {
    pub(crate) config: Arc<WorkersConfig>,
    pub(super) threads: Box<dyn WorkerThreads>,
    /// Called when a token is granted.
    pub(super) token_waker: Waker,
    pub(super) state: CacheAligned<Mutex<WorkersState>>,
    /// How many tasks are queued, for a worker that waits for one. Written with the mutex held.
    queued: CacheAligned<AtomicUsize>,
    /// Tasks that no worker is running any more and whose results are not published yet, and tasks that their callers
    /// run. Incremented with the mutex held.
    pub(super) unpublished: AtomicUsize,
}

/// What must be done, without the mutex held, so that a worker runs the next task.
pub(super) enum WorkerActivation {
    Unpark(Arc<Parker>),
    /// A thread is requested for a new worker.
    Spawn {
        /// The workers must be watched from now on.
        begins_watch: bool,
    },
    /// No worker will run the task: the limiter was closed.
    Close,
}

impl Workers {
    pub(crate) fn new(config: Arc<WorkersConfig>, threads: Box<dyn WorkerThreads>) -> Arc<Self> {
        Arc::new_cyclic(|this| {
            let token_waker = TokenWaker::of(this);
            let (state, queued, unpublished) = (CacheAligned::default(), CacheAligned::default(), AtomicUsize::new(0));
            Self { config, threads, token_waker, state, queued, unpublished }
        })
    }

    /// Queues a task.
    pub(crate) fn submit(self: &Arc<Self>, priority: Priority, job: SharedJob) -> Result<QueuePosition, OffloadError> {
        if self.tokens().is_closed() {
            self.close(OffloadErrorKind::Closed);
        }
        let mut state = lock(&self.state);
        self.check_open(&state)?;
        if let Err(waiting) = self.try_count(&mut state, job.options().ignores_queue_bound) {
            state.refused += 1;
            return Err(OffloadError::full(waiting));
        }
        Ok(self.enqueue(state, priority, job))
    }

    /// Queues a task that was counted.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, WorkersState>,
        priority: Priority,
        job: SharedJob,
    ) -> QueuePosition {
        let position = state.queue.push(priority, job);
        self.recount(&mut state);
        if matches!(state.searcher, Some(Searcher::OnThread(searcher)) if searcher == thread_id()) {
            // The searching worker has called a waker that submits this task, and may wait for the task's result.
            state.searcher = None;
        }
        let was_starting = state.is_starting;
        let activation = self.activation_if_needed(&mut state);
        let nested = self.take_nested_callers(&mut state);
        drop(state);
        self.activate(activation);
        nested.into_iter().for_each(NestedCallers::wake);
        if was_starting && let Err(refused) = self.threads.request_again() {
            self.on_thread_refused(refused);
        }
        position
    }

    /// Promises a free token to one more task, unless there may never be a thread for it.
    pub(super) fn try_promise(&self, state: &WorkersState) -> bool {
        !state.is_late && self.config.limiter.try_promise()
    }

    /// Counts one more queued task, if a token is free for it or the bound of the queue allows it. Otherwise returns how
    /// many tasks are waiting.
    fn try_count(&self, state: &mut WorkersState, ignores_bound: bool) -> Result<(), usize> {
        let limiter = &self.config.limiter;
        let is_promised =
            if state.is_late { limiter.has_unpromised_above(state.promised) } else { limiter.try_promise() };
        if is_promised {
            state.promised += 1;
        } else {
            self.config.try_count_waiting(ignores_bound)?;
            state.waiting += 1;
        }
        Ok(())
    }

    /// Counts the queued tasks again after the queue has changed.
    pub(super) fn recount(&self, state: &mut WorkersState) {
        let queued = state.queue.len();
        self.queued.store(queued, Ordering::Relaxed);
        let without_grant = queued.saturating_sub(usize::from(state.is_granted));
        let promised = state.promised.min(without_grant);
        let waiting = without_grant - promised;
        self.withdraw_promises(state, state.promised - promised);
        self.config.recount_waiting(state.waiting, waiting);
        (state.promised, state.waiting) = (promised, waiting);
    }

    /// Withdraws promises from the limiter, unless it does not know them.
    pub(super) fn withdraw_promises(&self, state: &WorkersState, promises: usize) {
        if !state.is_late {
            self.config.limiter.withdraw_promises(promises);
        }
    }

    /// Records that the starting worker has its thread, or never gets one.
    pub(super) fn end_start(&self, state: &mut WorkersState) {
        state.is_starting = false;
        if mem::take(&mut state.is_late) {
            state.promised = (0..state.promised).take_while(|_| self.config.limiter.try_promise()).count();
            self.recount(state);
        }
    }

    /// Returns `true` if tasks are queued.
    pub(super) fn has_queued_tasks(&self) -> bool {
        self.queued.load(Ordering::Relaxed) > 0
    }

    pub(super) fn check_open(&self, state: &WorkersState) -> Result<(), OffloadError> {
        match &state.closed {
            Some(why) => Err((*why).into()),
            // The pool is being closed, and these workers are about to be closed.
            None if self.config.is_closed() => Err(OffloadErrorKind::Closed.into()),
            None => Ok(()),
        }
    }

    /// Removes a task from the queue. Returns `true` if the task was still there.
    pub(crate) fn remove(&self, position: QueuePosition) -> bool {
        let mut state = lock(&self.state);
        let removed = state.queue.remove(position);
        self.recount(&mut state);
        let unneeded = state.take_unneeded();
        drop(state);
        self.give_up(unneeded);
        removed.is_some()
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
        let jobs = state.queue.drain();
        self.recount(&mut state);
        let unneeded = state.take_unneeded();
        drop(state);
        self.give_up(unneeded);
        for job in jobs {
            trace::refused(&self.config.pool, job.options(), why);
            wake(job.refuse(why.clone()));
            discard(job);
        }
    }

    /// Returns `true` if tasks are queued, none is running, and there is no token.
    pub(crate) fn is_stalled(&self) -> bool {
        let state = lock(&self.state);
        // A worker that has yet to find out that there is no token may be searching or starting.
        let is_without_token = !state.is_granted && self.tokens().available() == 0;
        !state.queue.is_empty() && is_without_token && state.running.iter().all(Option::is_none)
    }

    pub(crate) fn snapshot(&self) -> WorkersSnapshot {
        let state = lock(&self.state);
        let running: Vec<SharedJob> = state.running.iter().flatten().cloned().collect();
        let (queued, idle) = (state.queue.len(), state.idle.len());
        let started = state.started + running.iter().filter(|job| job.flags().is_started()).count() as u64;
        WorkersSnapshot { running, queued, idle, started, refused: state.refused }
    }

    /// Chooses a worker to activate if tasks are queued and there is a token for one more of them. If there is no
    /// token, the workers enter the limiter's queue.
    pub(super) fn activation_if_needed(self: &Arc<Self>, state: &mut WorkersState) -> Option<WorkerActivation> {
        if !state.needs_worker() {
            return None;
        }
        // A worker acquires its token when it is on its thread.
        if state.is_granted || self.tokens().available() > 0 {
            return Some(state.activate_worker());
        }
        match self.wait_for_token(state) {
            TokenAttempt::Acquired => {
                self.keep_grant(state);
                Some(state.activate_worker())
            }
            TokenAttempt::Queued => None,
            TokenAttempt::LimiterClosed => Some(WorkerActivation::Close),
        }
    }

    /// Activates a worker, or closes the workers. Must be called without the mutex held.
    pub(super) fn activate(self: &Arc<Self>, activation: Option<WorkerActivation>) {
        match activation {
            None => {}
            Some(WorkerActivation::Unpark(worker)) => worker.unpark(UnparkReason::Work),
            Some(WorkerActivation::Spawn { begins_watch }) => self.spawn_worker(begins_watch),
            Some(WorkerActivation::Close) => self.close(OffloadErrorKind::Closed),
        }
    }

    /// Spawns the starting worker.
    fn spawn_worker(self: &Arc<Self>, begins_watch: bool) {
        let spawned = self.threads.spawn(Worker::new(Arc::clone(self)));
        if begins_watch {
            self.threads.watch(self);
        }
        if let Err(refused) = spawned {
            self.on_thread_refused(refused);
        }
    }

    /// Looks after what waits for a thread, and has waited at the last check already, which has `seen` it: the worker
    /// may have been forgotten, and others can use the tokens. Returns what waits now, and `None` if nothing does and
    /// this was the last check.
    pub(super) fn check_start(&self, seen: ThreadWait) -> Option<ThreadWait> {
        let mut state = lock(&self.state);
        let now = state.thread_wait();
        if now == ThreadWait::default() {
            state.is_watched = false;
            return None;
        }
        let is_late = now.start.is_some() && now.start == seen.start;
        if is_late {
            self.withdraw_promises(&state, state.promised);
            state.is_late = true;
        }
        let nested = self.take_nested_callers(&mut state);
        drop(state);
        nested.into_iter().for_each(NestedCallers::wake);
        if let Some(grant) = now.grant.filter(|_| now.grant == seen.grant) {
            self.withdraw_grant(grant);
        }
        if is_late && let Err(refused) = self.threads.request_again() {
            self.on_thread_refused(refused);
        }
        Some(now)
    }

    /// Called when there is no thread that could check the workers.
    pub(super) fn end_watch(&self) {
        let mut state = lock(&self.state);
        state.is_watched = false;
        let grant = state.waiting_grant();
        drop(state);
        if let Some(grant) = grant {
            self.withdraw_grant(grant);
        }
    }

    /// Called when no thread is available for the starting worker.
    #[cold]
    fn on_thread_refused(&self, SpawnError { worker, cause }: SpawnError) {
        worker.disarm();
        trace::thread_missing(&self.config.pool, &cause);
        let mut state = lock(&self.state);
        self.end_start(&mut state);
        // Workers that are on their threads will check the queue for the remaining tasks.
        let is_hopeless =
            state.idle.is_empty() && state.searcher.is_none() && state.running.iter().all(Option::is_none);
        if is_hopeless {
            return self.refuse_queued(state, &OffloadError::from(OffloadErrorKind::NoThread).with_source(cause));
        }
        let (grant, nested) = (state.waiting_grant(), self.take_nested_callers(&mut state));
        drop(state);
        if let Some(grant) = grant {
            self.withdraw_grant(grant);
        }
        nested.into_iter().for_each(NestedCallers::wake);
    }

    /// Returns `true` if the workers are closed, no task is running, and all results are published.
    pub(crate) fn is_drained(&self) -> bool {
        // Pairs with the decrement after a result is published: see `on_result_published`.
        lock(&self.state).is_drained() && self.unpublished.load(Ordering::SeqCst) == 0
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
    pub(super) fn on_worker_lost(&self) {
        self.end_start(&mut lock(&self.state));
        self.close(OffloadErrorKind::RuntimeShutdown);
    }
}

impl_debug!(Workers |this| { pool: this.config.pool, .. });
