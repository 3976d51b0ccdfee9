//! The tokens of [`Workers`]: acquiring one for a worker, waiting for one in the limiter's queue, releasing it.

use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use super::state::{TokenWait, WorkersState};
use super::workers::{WorkerActivation, Workers};
use crate::panic::catch;
use crate::semaphore::{EnqueueOutcome, TokenSemaphore, Tokens, WaitOutcome};
use crate::sync::lock;

/// How an attempt to acquire a token ended.
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

    /// Acquires a token for one more worker, or enters the limiter's queue.
    pub(super) fn acquire_token(self: &Arc<Self>, state: &mut WorkersState) -> TokenAttempt {
        if state.token_wait.is_some() {
            return TokenAttempt::Queued;
        }
        if self.tokens().try_acquire(Tokens::ONE).is_ok() {
            return TokenAttempt::Acquired;
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

    /// Leaves the limiter's queue. Must be called without the mutex held.
    pub(super) fn cancel_token_wait(&self, wait: Option<TokenWait>) {
        if let Some(waiter) = wait.and_then(|wait| wait.waiter) {
            let _ = catch(|| self.config.limiter.cancel_for_pool(waiter));
        }
    }

    /// Activates a worker for the token that was granted.
    fn on_token_granted(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let Some(wait) = &mut state.token_wait else { return };
        let Some(outcome) = self.tokens().poll(&mut wait.waiter, &self.token_waker) else { return };
        let wait = state.token_wait.take();
        let activation = if outcome != WaitOutcome::Acquired {
            Some(WorkerActivation::Close)
        } else {
            state.needs_worker().then(|| state.activate_worker())
        };
        drop(state);
        drop(wait);
        match activation {
            // Releasing the token may call this method again, but for another wait, which was enqueued with the mutex
            // held.
            None => self.release_token(),
            activation => self.activate(activation),
        }
    }

    /// Releases a token that no queued task needs: if tasks are queued, the workers are in the limiter's queue, or
    /// another worker checks the queue before it ends.
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
