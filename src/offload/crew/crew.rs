//! [`Crew`], the threads of one runtime that work for a pool, and the tasks that wait for them.
//!
//! A thread that has run a task takes the next one from here, and one that finds none stays a little while. So few threads
//! do much, and the runtime hears of a task only where a thread is missing.
//!
//! # Invariants
//!
//! 1. Who runs tasks holds one token of the pool's limiter. It keeps it from task to task, unless somebody else waits for
//!    one or there are too many.
//! 2. At most one worker is *searching*: it was called, holds a token and has not looked into the queue yet. Nobody else is
//!    called meanwhile. It calls the next one before it runs what it has found.
//! 3. While tasks wait, a worker is searching, or the crew has a place in the line for a token, whose turn calls a worker.
//! 4. Lock order: the crew's, then the limiter's. Nobody is woken, and nothing of the user is dropped, under either.

use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use super::parker::{Parker, Signal};
use super::queue::Place;
use super::rules::{Rules, Threads};
use super::state::{Look, State};
use super::worker::Worker;
use crate::lane::{Answer, Joined, TokenLane, Tokens};
use crate::offload::error::OffloadError;
use crate::offload::task::{Priority, TaskContext, Work, wake};
use crate::panic::discard;
use crate::sync::{Mutex, lock};

/// Tasks, and the threads that run them.
pub(crate) struct Crew {
    pub(super) rules: Arc<Rules>,
    threads: Box<dyn Threads>,
    /// Called when it is this crew's turn to have a token.
    caller: Waker,
    me: Weak<Self>,
    state: Mutex<State>,
}

/// A worker that was called. It is so after the lock.
pub(super) enum Call {
    Unpark(Arc<Parker>),
    Begin,
    /// Nobody: there are no tokens any more.
    Close,
}

/// What a worker finds.
pub(super) enum Found {
    /// A task, and who is called before it is run.
    Task(Arc<dyn Work>, Option<Call>),
    /// None, but whoever brings one relies on this worker to look again.
    Searching,
    Nothing,
    Closed,
}

impl Crew {
    pub(crate) fn new(rules: Arc<Rules>, threads: Box<dyn Threads>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let caller = Waker::from(Arc::new(Caller(Weak::clone(me))));
            Self { rules, threads, caller, me: Weak::clone(me), state: Mutex::default() }
        })
    }

    /// Has a task wait for its turn.
    pub(crate) fn submit(&self, priority: Priority, job: Arc<dyn Work>) -> Result<Place, OffloadError> {
        let mut state = lock(&self.state);
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        let queued = state.queue.len();
        if queued >= self.rules.max_queued.saturating_add(self.idle_tokens(&state)) {
            state.counts.refused += 1;
            return Err(OffloadError::Full { pool: self.rules.pool, queued });
        }
        let place = state.queue.push(priority, job);
        let call = self.call_if_needed(&mut state);
        drop(state);
        self.make(call);
        Ok(place)
    }

    /// How many of those that wait do so only until a thread comes.
    fn idle_tokens(&self, state: &State) -> usize {
        self.tokens().within_reach() + usize::from(state.is_searching)
    }

    /// Counts a task that is run by its caller, which has a token already.
    pub(crate) fn admit_inline(&self) -> Result<(), OffloadError> {
        let mut state = lock(&self.state);
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        state.counts.started += 1;
        Ok(())
    }

    /// Forgets a task that was withdrawn.
    pub(crate) fn forget(&self, place: Place) {
        let forgotten = lock(&self.state).queue.remove(place);
        drop(forgotten);
    }

    /// Tells all who wait that their tasks will not run, and takes no other ones.
    pub(crate) fn close(&self, why: &OffloadError) {
        let mut state = lock(&self.state);
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(why.clone());
        let jobs = state.queue.drain();
        let idle = std::mem::take(&mut state.idle);
        let ticket = state.ticket.take();
        drop(state);
        if let Some(ticket) = ticket {
            self.tokens().withdraw(ticket);
        }
        idle.iter().for_each(|worker| worker.unpark(Signal::Leave));
        for job in jobs {
            wake(job.refuse(why.clone()));
            discard(job);
        }
    }

    /// Whether the caller is on a thread of it, and would perhaps wait for itself.
    pub(crate) fn is_here(&self) -> bool {
        TaskContext::is_inside(self.rules.id) || self.threads.is_here()
    }

    pub(crate) fn look(&self) -> Look {
        let state = lock(&self.state);
        let running = state.running.iter().flatten().cloned().collect();
        Look { running, queued: state.queue.len(), idle: state.idle.len(), counts: state.counts }
    }

    /// Who is to be called, if tasks wait and there is a token for one more of them. If there is none, the crew gets in
    /// line for one.
    fn call_if_needed(&self, state: &mut State) -> Option<Call> {
        if state.is_searching || state.queue.is_empty() || state.ticket.is_some() || state.closed.is_some() {
            return None;
        }
        let tokens = self.tokens();
        if tokens.try_take(Tokens::ONE).is_err() {
            match tokens.line_up(Tokens::ONE, &self.caller) {
                Joined::Entered => {}
                Joined::Queued(ticket) => {
                    state.ticket = Some(ticket);
                    return None;
                }
                // Its limiter was closed.
                Joined::Refused(_) => return Some(Call::Close),
            }
        }
        Some(Self::call(state))
    }

    /// Calls a worker, who has a token.
    fn call(state: &mut State) -> Call {
        state.is_searching = true;
        state.idle.pop().map_or(Call::Begin, Call::Unpark)
    }

    pub(super) fn make(&self, call: Option<Call>) {
        match call {
            None => {}
            Some(Call::Unpark(worker)) => worker.unpark(Signal::Work),
            Some(Call::Begin) => self.begin(true),
            Some(Call::Close) => self.close(&OffloadError::Closed),
        }
    }

    /// Has a worker begin that holds a token.
    pub(super) fn begin(&self, is_searching: bool) {
        if let Some(crew) = self.me.upgrade() {
            self.threads.begin(Worker::new(crew, is_searching));
        }
    }

    /// It is this crew's turn to have a token.
    fn token_has_come(&self) {
        let mut state = lock(&self.state);
        match self.tokens().ask(&mut state.ticket, &self.caller) {
            None => return,
            Some(Answer::Entered) => {}
            Some(Answer::Closed | Answer::Expired) => {
                drop(state);
                return self.close(&OffloadError::Closed);
            }
        }
        if state.is_searching || state.queue.is_empty() || state.closed.is_some() {
            drop(state);
            // It may call this again, but then there is a place in line, which is made under the lock.
            return self.tokens().give_back(Tokens::ONE);
        }
        let call = Self::call(&mut state);
        drop(state);
        self.make(Some(call));
    }

    /// Closed, and nothing runs any more.
    pub(crate) fn is_drained(&self) -> bool {
        lock(&self.state).is_drained()
    }

    fn announce_if(&self, is_drained: bool) {
        if is_drained {
            self.rules.drained.notify_waiters();
        }
    }

    fn tokens(&self) -> &TokenLane {
        self.rules.limiter.lane()
    }

    // For workers.

    /// The next task of a worker that holds a token. If there is none, it has to give the token back, and is among the idle
    /// ones from then on, unless it may search a while.
    pub(super) fn next(&self, worker: &mut Worker, may_search: bool) -> Found {
        let mut state = lock(&self.state);
        if std::mem::take(&mut worker.is_searching) {
            state.is_searching = false;
        }
        let Some(job) = state.queue.pop() else {
            if may_search && !state.is_searching && state.closed.is_none() {
                (state.is_searching, worker.is_searching) = (true, true);
                return Found::Searching;
            }
            let ran = state.leave(worker);
            let found = if state.closed.is_some() { Found::Closed } else { Found::Nothing };
            let is_drained = state.is_drained();
            drop(state);
            discard(ran);
            self.announce_if(is_drained);
            return found;
        };
        state.counts.started += 1;
        let ran = state.enter(worker, Arc::clone(&job));
        let call = self.call_if_needed(&mut state);
        drop(state);
        discard(ran);
        Found::Task(job, call)
    }

    /// A worker is idle from now on, if it stays, though tasks may wait. Whether there may be work for it again.
    pub(super) fn rest(&self, worker: &mut Worker) -> bool {
        let mut state = lock(&self.state);
        let ran = state.leave(worker);
        let (is_open, is_drained) = (state.closed.is_none(), state.is_drained());
        drop(state);
        discard(ran);
        self.announce_if(is_drained);
        is_open
    }

    /// A worker that was idle all the time goes. If it was called in this very moment, it may not.
    pub(super) fn dismiss(&self, parker: &Arc<Parker>) -> bool {
        let mut state = lock(&self.state);
        let place = state.idle.iter().position(|idle| Arc::ptr_eq(idle, parker));
        place.map(|place| state.idle.remove(place)).is_some()
    }

    pub(super) fn has_more(&self) -> bool {
        !lock(&self.state).queue.is_empty()
    }

    pub(super) fn must_yield(&self) -> bool {
        self.tokens().wants_back()
    }

    /// A token comes back. If tasks wait, the crew has a place in the line for it.
    pub(super) fn give_back(&self) {
        self.tokens().give_back(Tokens::ONE);
    }

    /// A worker never came to a thread: there is none any more.
    pub(super) fn lose(&self, worker: &Worker) {
        if worker.is_searching {
            lock(&self.state).is_searching = false;
        }
        self.close(&OffloadError::RuntimeShutdown);
        self.tokens().give_back(Tokens::ONE);
    }
}

/// Calls a worker when it is the crew's turn to have a token.
struct Caller(Weak<Crew>);

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

impl Drop for Crew {
    fn drop(&mut self) {
        let ticket = lock(&self.state).ticket.take();
        if let Some(ticket) = ticket {
            self.tokens().withdraw(ticket);
        }
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("pool", &self.rules.pool).finish_non_exhaustive()
    }
}
