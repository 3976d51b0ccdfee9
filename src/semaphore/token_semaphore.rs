//! [`TokenSemaphore`], a semaphore of tokens: a caller acquires several at once, and the total can change during use.

use super::atomic_state::AtomicState;
use super::order::Order;
use super::semaphore::Semaphore;
use super::state::SemaphoreState;
use super::token_state::{MAX_WAITING_FOR_TOKENS, TokenState, Tokens};
use super::wait_queue::{SemaphoreConfig, StateCell};
use crate::sync::const_unless_loom;
use crate::wake::wake_all;

pub(crate) type TokenSemaphore = Semaphore<TokenState>;

/// A point-in-time copy of a token semaphore's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenSnapshot {
    pub(crate) total: usize,
    /// The number of available tokens. Negative if more than `total` tokens are held.
    pub(crate) available: i64,
    pub(crate) waiting: usize,
    pub(crate) is_closed: bool,
}

impl TokenSnapshot {
    pub(crate) fn held(&self) -> usize {
        // Only acquired tokens are released, so `available` is at most `total`.
        (self.total as i64 - self.available) as usize
    }
}

impl TokenSemaphore {
    const_unless_loom! {
        /// Creates a semaphore of `total` tokens, at most [`MAX_TOKENS`](super::MAX_TOKENS).
        pub(crate) fn with_total(total: usize) -> Self {
            let config = SemaphoreConfig { permits: (), bound: MAX_WAITING_FOR_TOKENS, order: Order::Fifo };
            Self::with_state(AtomicState::with_total(total), config)
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.state.total()
    }

    /// Returns `true` if a holder should release its token instead of reusing it: callers other than the holder's
    /// `own_waiters` are waiting, more tokens are held than exist, or the semaphore is closed. Costs one load.
    #[inline]
    pub(crate) fn should_release(&self, own_waiters: usize) -> bool {
        self.state.load().should_release(own_waiters)
    }

    /// Returns the number of tokens that a caller arriving now could acquire: zero if a caller is waiting. Costs one
    /// load.
    pub(crate) fn available(&self) -> usize {
        let seen = self.state.load();
        if seen.waiting() > 0 || seen.is_closed() { 0 } else { usize::try_from(seen.available()).unwrap_or(0) }
    }

    /// Releases tokens, or grants them to the next waiters if there are enough for them.
    #[inline]
    pub(crate) fn release(&self, tokens: Tokens) {
        if !self.try_release(tokens) {
            self.release_contended(tokens);
        }
    }

    /// Releases tokens if no caller is waiting for them. Wakes nothing.
    #[inline]
    pub(crate) fn try_release(&self, tokens: Tokens) -> bool {
        self.state.try_release(tokens)
    }

    #[cold]
    #[inline(never)]
    fn release_contended(&self, tokens: Tokens) {
        wake_all(self.with_queue(|queue| queue.release(tokens, || None)));
    }

    /// Changes the total, to at most [`MAX_TOKENS`](super::MAX_TOKENS). Holders keep their tokens.
    pub(crate) fn set_total(&self, total: usize) {
        wake_all(self.with_queue(|queue| queue.resize(self.state.replace_total(total))));
    }

    /// Changes the total, like [`set_total`](Self::set_total), if it still is `seen`. Returns `false` if it is not.
    pub(crate) fn compare_set_total(&self, seen: usize, total: usize) -> bool {
        let wakers = self
            .with_queue(|queue| (queue.state.total() == seen).then(|| queue.resize(self.state.replace_total(total))));
        wakers.map(wake_all).is_some()
    }

    /// Removes held tokens permanently: the total shrinks by the same number, but not below zero, so no other caller is
    /// affected.
    pub(crate) fn forget(&self, tokens: Tokens) {
        let tokens = tokens.count();
        wake_all(self.with_queue(|queue| {
            let total = queue.state.total().saturating_sub(tokens);
            queue.resize(queue.state.replace_total(total) + tokens as i64)
        }));
    }

    /// Returns a consistent copy of the counters.
    pub(crate) fn snapshot(&self) -> TokenSnapshot {
        // Takes the mutex, because the total and the state are changed one after the other.
        self.with_queue(|queue| {
            let seen = queue.state.load();
            TokenSnapshot {
                total: queue.state.total(),
                available: seen.available(),
                waiting: seen.waiting(),
                is_closed: seen.is_closed(),
            }
        })
    }
}
