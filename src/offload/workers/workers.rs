//! [`Workers`], the threads of one runtime that work for a pool, and the tasks that wait for them.
//!
//! A thread that has run a task takes the next one from here, and one that finds none stays a little while. So few threads
//! do much, and the runtime hears of a task only where a thread is missing.
//!
//! # Invariants
//!
//! 1. Who runs tasks holds one token of the pool's limiter. It keeps it from task to task, unless somebody else waits for
//!    one or there are too many.
//! 2. At most one worker is *searching*: on its thread, about to look into the queue. It has a token if it was called, and
//!    takes one for what it finds if it has just run a task. At most one is *coming*: it has a token, and no thread yet.
//!    Nobody is called while one is searching, and none begun while one is coming. Each of them calls the next one before it
//!    runs what it has found.
//! 3. While tasks wait, a worker is searching or coming, or the crew has a place in the line for a token, whose turn calls
//!    a worker.
//! 4. Lock order: the crew's, then the limiter's. Nobody is woken, and nothing of the user is dropped, under either.

use std::fmt;
use std::mem;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use super::config::{Threads, WorkersConfig};
use super::parker::{Parker, Signal};
use super::queue::Place;
use super::state::{InLine, Look, State};
use super::worker::Worker;
use crate::offload::error::OffloadError;
use crate::offload::task::{Priority, TaskContext, Work, wake};
use crate::panic::{catch, discard};
use crate::semaphore::{EnqueueOutcome, TokenSemaphore, Tokens, WaitOutcome};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, lock};

/// Tasks, and the threads that run them.
pub(crate) struct Workers {
    pub(super) rules: Arc<WorkersConfig>,
    threads: Box<dyn Threads>,
    /// Called when it is this crew's turn to have a token.
    caller: Waker,
    pub(super) state: Mutex<State>,
    /// Tasks that are not among those that run, and whose results are not told yet. Raised under the mutex.
    pub(super) unpublished: AtomicUsize,
}

/// A worker that was called. It is so after the lock.
pub(super) enum Call {
    Unpark(Arc<Parker>),
    Begin,
    /// Nobody: there are no tokens any more.
    Close,
}

/// What there is for a crew that wants a token.
pub(super) enum Taken {
    Token,
    PlaceInLine,
    /// The limiter was closed.
    Nothing,
}

impl Workers {
    pub(crate) fn new(rules: Arc<WorkersConfig>, threads: Box<dyn Threads>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let caller = Waker::from(Arc::new(Caller(Weak::clone(me))));
            Self { rules, threads, caller, state: Mutex::default(), unpublished: AtomicUsize::new(0) }
        })
    }

    /// Has a task wait for its turn.
    pub(crate) fn submit(self: &Arc<Self>, priority: Priority, job: Arc<dyn Work>) -> Result<Place, OffloadError> {
        if self.tokens().is_closed() {
            self.close(&OffloadError::Closed);
        }
        let mut state = lock(&self.state);
        self.refusal(&state)?;
        // Those do not wait for others, only until a thread comes.
        let begins_soon = self.tokens().available() + usize::from(state.is_called) + usize::from(state.is_coming);
        let beside = if job.terms().is_admitted { usize::MAX } else { begins_soon };
        if !self.rules.admits(beside) {
            state.counts.refused += 1;
            return Err(OffloadError::Full { pool: self.rules.pool, queued: self.rules.queued() });
        }
        let place = state.queue.push(priority, job);
        let call = self.call_if_needed(&mut state);
        drop(state);
        self.make(call);
        Ok(place)
    }

    /// Counts a task that is run by its caller, which has a token already, and [says](Self::has_published) when it is over.
    pub(crate) fn admit_inline(&self) -> Result<(), OffloadError> {
        let mut state = lock(&self.state);
        self.refusal(&state)?;
        state.counts.started += 1;
        self.unpublished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn refusal(&self, state: &State) -> Result<(), OffloadError> {
        match &state.closed {
            Some(why) => Err(why.clone()),
            // This crew is closed next.
            None if self.rules.is_closed() => Err(OffloadError::Closed),
            None => Ok(()),
        }
    }

    /// Takes a task out of the queue that is to be withdrawn.
    pub(crate) fn forget(&self, place: Place) {
        let mut state = lock(&self.state);
        let forgotten = state.queue.remove(place);
        let line = state.line_of_nobody();
        drop(state);
        self.rules.forget(usize::from(forgotten.is_some()));
        self.leave_line(line);
        drop(forgotten);
    }

    /// Tells all who wait that their tasks will not run, and takes no other ones.
    pub(crate) fn close(&self, why: &OffloadError) {
        let mut state = lock(&self.state);
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(why.clone());
        let idle = mem::take(&mut state.idle);
        self.refuse_all(state, why);
        idle.iter().for_each(|worker| worker.unpark(Signal::Leave));
        self.tell_if_drained();
    }

    fn refuse_all(&self, mut state: MutexGuard<'_, State>, why: &OffloadError) {
        let (jobs, line) = (state.queue.drain(), state.line.take());
        drop(state);
        self.rules.forget(jobs.len());
        self.leave_line(line);
        for job in jobs {
            wake(job.refuse(why.clone()));
            discard(job);
        }
    }

    pub(super) fn leave_line(&self, line: Option<InLine>) {
        if let Some(ticket) = line.and_then(|line| line.ticket) {
            let _ = catch(|| self.tokens().cancel(ticket, || None));
        }
    }

    /// Whether the caller is on a thread of it, and would perhaps wait for itself.
    pub(crate) fn is_here(&self) -> bool {
        TaskContext::is_inside(self.rules.limiter_id()) || self.threads.is_here()
    }

    pub(crate) fn look(&self) -> Look {
        let state = lock(&self.state);
        let running = state.running.iter().flatten().cloned().collect();
        Look { running, queued: state.queue.len(), idle: state.idle.len(), counts: state.counts }
    }

    /// Who is to be called, if tasks wait and there is a token for one more of them. If there is none, the crew gets in
    /// line for one.
    pub(super) fn call_if_needed(self: &Arc<Self>, state: &mut State) -> Option<Call> {
        if state.is_provided_for() {
            return None;
        }
        match self.take_token(state) {
            Taken::Token => Some(state.call()),
            Taken::PlaceInLine => None,
            Taken::Nothing => Some(Call::Close),
        }
    }

    pub(super) fn take_token(self: &Arc<Self>, state: &mut State) -> Taken {
        if state.line.is_some() {
            return Taken::PlaceInLine;
        }
        if self.tokens().try_acquire(Tokens::ONE).is_ok() {
            return Taken::Token;
        }
        match self.tokens().enqueue(Tokens::ONE, &self.caller) {
            EnqueueOutcome::Acquired => Taken::Token,
            EnqueueOutcome::Queued(ticket) => {
                state.line = Some(InLine { ticket: Some(ticket), _crew: Arc::clone(self) });
                Taken::PlaceInLine
            }
            // Its limiter was closed.
            EnqueueOutcome::Refused(_) => Taken::Nothing,
        }
    }

    pub(super) fn make(self: &Arc<Self>, call: Option<Call>) {
        match call {
            None => {}
            Some(Call::Unpark(worker)) => worker.unpark(Signal::Work),
            Some(Call::Begin) => self.begin(),
            Some(Call::Close) => self.close(&OffloadError::Closed),
        }
    }

    /// Has a worker begin that is coming, and holds a token.
    pub(super) fn begin(self: &Arc<Self>) {
        let Err(worker) = self.threads.begin(Worker::new(Arc::clone(self))) else { return };
        worker.retire();
        let mut state = lock(&self.state);
        state.is_coming = false;
        // Those who are on their threads will look for others.
        let is_hopeless = state.idle.is_empty() && !state.is_searching && state.running.iter().all(Option::is_none);
        if is_hopeless {
            self.refuse_all(state, &OffloadError::NoThread);
        } else {
            drop(state);
        }
        self.give_back();
    }

    /// It is this crew's turn to have a token.
    fn token_has_come(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let Some(line) = &mut state.line else { return };
        let Some(answer) = self.tokens().poll(&mut line.ticket, &self.caller) else { return };
        let line = state.line.take();
        if answer != WaitOutcome::Acquired {
            drop(state);
            drop(line);
            return self.close(&OffloadError::Closed);
        }
        let call = (!state.is_provided_for()).then(|| state.call());
        drop(state);
        drop(line);
        match call {
            // It may come here again, but then there is another place in line, which was made under the lock.
            None => self.give_back(),
            call => self.make(call),
        }
    }

    /// Closed, nothing runs any more, and all results are told.
    pub(crate) fn is_drained(&self) -> bool {
        // Acquire pairs with the Release of those who publish.
        lock(&self.state).is_drained() && self.unpublished.load(Ordering::Acquire) == 0
    }

    pub(super) fn tell_if_drained(&self) {
        if self.is_drained() {
            self.rules.tell_drained();
        }
    }

    pub(super) fn tokens(&self) -> &TokenSemaphore {
        self.rules.limiter.lane()
    }

    /// A worker that was idle all the time goes. If it was called in this very moment, it may not.
    pub(super) fn dismiss(&self, parker: &Arc<Parker>) -> bool {
        let mut state = lock(&self.state);
        let place = state.idle.iter().position(|idle| Arc::ptr_eq(idle, parker));
        place.map(|place| state.idle.remove(place)).is_some()
    }

    /// A token comes back. If tasks wait, the crew has a place in the line for it, or somebody with another one is coming.
    pub(super) fn give_back(&self) {
        // Whoever gets it is woken, and that is foreign code.
        let _ = catch(|| self.tokens().release(Tokens::ONE));
    }

    /// A worker never came to a thread: there are none any more.
    pub(super) fn lose(&self) {
        lock(&self.state).is_coming = false;
        self.close(&OffloadError::RuntimeShutdown);
        self.give_back();
    }
}

/// Calls a worker when it is the crew's turn to have a token.
struct Caller(Weak<Workers>);

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(crew) = self.0.upgrade() {
            crew.token_has_come();
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("pool", &self.rules.pool).finish_non_exhaustive()
    }
}
