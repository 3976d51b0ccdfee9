//! The tokens of [`Workers`]: acquiring one for a worker, waiting for one in the limiter's queue, releasing it.

use std::mem;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use super::nested_tasks::NestedCallers;
use super::state::{TokenWait, Unneeded, WorkersState};
use super::workers::{WorkerActivation, Workers};
use crate::panic::catch;
use crate::semaphore::{EnqueueOutcome, TokenSemaphore, Tokens, WaitOutcome};
use crate::sync::lock;

/// How an attempt to acquire a token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenAttempt {
    Acquired,
    /// The workers are in the limiter's queue.
    Queued,
    LimiterClosed,
}

impl Workers {
    pub(super) fn tokens(&self) -> &TokenSemaphore {
        self.config.limiter.semaphore()
    }

    /// Acquires a token for a worker that is about to take a task, or enters the limiter's queue.
    pub(super) fn acquire_token(self: &Arc<Self>, state: &mut WorkersState) -> TokenAttempt {
        if mem::take(&mut state.is_granted) {
            return TokenAttempt::Acquired;
        }
        if state.promised > 0 && !state.is_late && self.config.limiter.acquire_promised() {
            state.promised -= 1;
            return TokenAttempt::Acquired;
        }
        // Fails while others wait. The workers may have a grant whose waker was not called yet: that one is for the
        // next task, or given up.
        if self.tokens().try_acquire(Tokens::ONE).is_ok() {
            return TokenAttempt::Acquired;
        }
        self.wait_for_token(state)
    }

    /// Enters the limiter's queue, unless a token was released in the meantime.
    pub(super) fn wait_for_token(self: &Arc<Self>, state: &mut WorkersState) -> TokenAttempt {
        if state.token_wait.is_some() {
            return TokenAttempt::Queued;
        }
        match self.tokens().enqueue(Tokens::ONE, &self.token_waker) {
            EnqueueOutcome::Acquired => TokenAttempt::Acquired,
            EnqueueOutcome::Queued(waiter) => {
                state.token_wait = Some(TokenWait { waiter: Some(waiter), _workers: Arc::clone(self) });
                TokenAttempt::Queued
            }
            EnqueueOutcome::Refused(_) => TokenAttempt::LimiterClosed,
        }
    }

    /// Keeps a token for the next worker that takes a task.
    pub(super) fn keep_grant(&self, state: &mut WorkersState) {
        (state.is_granted, state.grants) = (true, state.grants + 1);
        if state.promised > 0 {
            // The task that was promised a token has this one now.
            state.promised -= 1;
            self.withdraw_promises(state, 1);
        }
        self.recount(state);
    }

    /// Activates a worker for the token that was granted.
    fn on_token_granted(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let Some(wait) = &mut state.token_wait else { return };
        let Some(outcome) = self.tokens().poll(&mut wait.waiter, &self.token_waker) else { return };
        let wait = state.token_wait.take();
        let activation = if outcome == WaitOutcome::Acquired {
            self.keep_grant(&mut state);
            state.needs_worker().then(|| state.activate_worker())
        } else {
            Some(WorkerActivation::Close)
        };
        let unneeded = state.take_unneeded();
        // A worker that is spawned now is watched already.
        let begins_watch = state.is_granted && state.begin_watch();
        drop(state);
        drop(wait);
        self.give_up(unneeded);
        self.activate(activation);
        if begins_watch {
            self.threads.watch(self);
        }
    }

    /// Passes a granted token on if no worker has taken it yet.
    pub(super) fn withdraw_grant(&self, grant: u64) {
        let mut state = lock(&self.state);
        if state.waiting_grant() != Some(grant) {
            return;
        }
        state.is_granted = false;
        self.recount(&mut state);
        drop(state);
        // The worker that starts or searches waits for another token once it has found the task.
        self.release_token();
        // The token may be free now, and the worker that is expected may use it.
        let nested = self.take_nested_callers(&mut lock(&self.state));
        nested.into_iter().for_each(NestedCallers::wake);
    }

    /// Leaves the limiter's queue, and releases the granted token. Must be called without the mutex held.
    pub(super) fn give_up(&self, unneeded: Unneeded) {
        if let Some(waiter) = unneeded.wait.and_then(|wait| wait.waiter) {
            let _ = catch(|| self.config.limiter.cancel_for_pool(waiter));
        }
        if unneeded.is_granted {
            self.release_token();
        }
    }

    /// Releases a token. Must be called without the mutex held.
    pub(super) fn release_token(&self) {
        // The release wakes the waiter that is granted the token, and wakers are user code.
        let _ = catch(|| self.config.limiter.release_for_pool());
    }

    /// Returns `true` if other callers wait for tokens, or more tokens are held than the total allows. Tasks queued
    /// here don't count: workers run them with the tokens that they have.
    pub(super) fn is_token_wanted_elsewhere(&self, state: &WorkersState) -> bool {
        self.tokens().should_release(usize::from(state.token_wait.is_some()))
    }
}

/// Wakes the workers when they are granted a token.
pub(super) struct TokenWaker(Weak<Workers>);

impl TokenWaker {
    pub(super) fn of(workers: &Weak<Workers>) -> Waker {
        Waker::from(Arc::new(Self(Weak::clone(workers))))
    }
}

impl Wake for TokenWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(workers) = self.0.upgrade() {
            workers.on_token_granted();
        }
    }
}
