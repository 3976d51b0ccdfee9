//! What workers do next: the side of a [`Workers`] that faces them.

use std::mem;
use std::sync::Arc;

use super::state::State;
use super::worker::Worker;
use super::workers::{Taken, Workers};
use crate::offload::error::OffloadError;
use crate::offload::task::Work;
use crate::panic::discard;
use crate::semaphore::Tokens;
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, lock};

/// What a worker finds.
pub(super) enum Found {
    /// A task. If others wait, the next worker was called.
    Task(Arc<dyn Work>),
    /// None, but whoever brings one relies on this worker to look again.
    Searching,
    /// None, and it is idle from now on, or goes.
    Nothing { stays: bool },
}

impl Workers {
    /// What a worker does that was called, or has searched. If there is no task, it gives its token back.
    pub(super) fn first(self: &Arc<Self>, worker: &mut Worker) -> Found {
        let mut state = lock(&self.state);
        if mem::take(&mut worker.is_searching) {
            (state.is_searching, state.is_called) = (false, false);
        }
        if mem::take(&mut worker.is_coming) {
            state.is_coming = false;
        }
        if state.queue.is_empty() {
            return Found::Nothing { stays: self.left(state, worker) };
        }
        if !worker.has_token {
            match self.take_token(&mut state) {
                Taken::Token => worker.has_token = true,
                Taken::PlaceInLine => return Found::Nothing { stays: self.left(state, worker) },
                Taken::Nothing => {
                    let stays = self.left(state, worker);
                    self.close(&OffloadError::Closed);
                    return Found::Nothing { stays };
                }
            }
        }
        self.found(state, worker)
    }

    /// What a worker does that has run a task. It goes on, unless others want its token. If there is no task, it searches.
    pub(super) fn go_on(self: &Arc<Self>, worker: &mut Worker) -> Found {
        let mut state = lock(&self.state);
        if self.others_want_tokens(&state) {
            let call = self.call_if_needed(&mut state);
            let stays = self.left(state, worker);
            self.make(call);
            return Found::Nothing { stays };
        }
        if !state.queue.is_empty() {
            return self.found(state, worker);
        }
        if state.is_searching || state.closed.is_some() {
            return Found::Nothing { stays: self.left(state, worker) };
        }
        (state.is_searching, worker.is_searching) = (true, true);
        // What has ended does not run, also for who is woken for its result.
        let ran = state.clear(worker);
        self.put_down(state, worker, ran);
        Found::Searching
    }

    /// Takes a task that waits, for a worker with a token.
    fn found(self: &Arc<Self>, mut state: MutexGuard<'_, State>, worker: &mut Worker) -> Found {
        let job = state.queue.pop().expect("one waits");
        self.rules.forget(1);
        state.counts.started += 1;
        let ran = state.enter(worker, Arc::clone(&job));
        let (line, call) = (state.line_of_nobody(), self.call_if_needed(&mut state));
        drop(state);
        self.leave_line(line);
        self.make(call);
        discard(ran);
        Found::Task(job)
    }

    /// A worker runs nothing any more, though tasks may wait, and gives its token back. Whether it is idle from now on.
    fn left(&self, mut state: MutexGuard<'_, State>, worker: &mut Worker) -> bool {
        let (ran, stays) = state.leave(worker);
        self.put_down(state, worker, ran);
        stays
    }

    /// Gives back the token of a worker that runs nothing at the moment.
    fn put_down(&self, state: MutexGuard<'_, State>, worker: &mut Worker, ran: Option<Arc<dyn Work>>) {
        self.note_unpublished(ran.as_ref());
        // With the lock: whoever comes next finds the worker here, or its token there.
        let is_owed = mem::take(&mut worker.has_token) && !self.tokens().try_release(Tokens::ONE);
        drop(state);
        if is_owed {
            self.give_back();
        }
        discard(ran);
    }

    /// A worker goes. If tasks wait and nobody is about to look for them, another one is begun with its token.
    pub(super) fn clock_out(self: &Arc<Self>, worker: &mut Worker) {
        worker.parker = None;
        let mut state = lock(&self.state);
        if state.queue.is_empty() || state.is_searching || state.is_coming || self.others_want_tokens(&state) {
            let call = self.call_if_needed(&mut state);
            self.left(state, worker);
            return self.make(call);
        }
        state.is_coming = true;
        worker.has_token = false;
        let ran = state.clear(worker);
        self.note_unpublished(ran.as_ref());
        drop(state);
        discard(ran);
        self.begin();
    }

    /// Under the mutex.
    fn note_unpublished(&self, ran: Option<&Arc<dyn Work>>) {
        self.unpublished.fetch_add(usize::from(ran.is_some()), Ordering::Relaxed);
    }

    /// The result of a task that no longer runs is told.
    pub(crate) fn has_published(&self) {
        // It is seen by who waits for the end, or the end of its `close` is seen here: that tells, too.
        self.unpublished.fetch_sub(1, Ordering::SeqCst);
        if self.rules.is_closed() {
            self.tell_if_drained();
        }
    }

    /// Whether others than this crew wait for tokens, or there are too many. What waits here, its workers may do with theirs.
    fn others_want_tokens(&self, state: &State) -> bool {
        self.tokens().should_release(usize::from(state.line.is_some()))
    }
}
