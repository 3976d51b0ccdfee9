//! [`TokenSemaphore`], a lane that lends tokens: a caller asks for several, and how many there are changes while it is in use.

#[cfg(all(test, loom))]
#[path = "token_loom_tests.rs"]
mod loom_tests;
#[cfg(all(test, not(loom)))]
#[path = "token_property_tests.rs"]
mod property_tests;

use super::atomic_state::AtomicState;
use super::order::Order;
use super::outcome::CancelOutcome;
use super::semaphore::{Semaphore, wake_all};
use super::state::State;
use super::token_state::{MAX_WAITING_FOR_TOKENS, TokenState, Tokens};
use super::wait_queue::SemaphoreConfig;
use super::waiters::WaiterId;
use crate::sync::const_unless_loom;

pub(crate) type TokenSemaphore = Semaphore<TokenState>;

/// What a look at the lane shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenSnapshot {
    pub(crate) total: usize,
    /// Less than zero: so many more are lent than there are.
    pub(crate) free: i64,
    pub(crate) waiting: usize,
    pub(crate) is_closed: bool,
}

impl TokenSnapshot {
    pub(crate) fn lent(&self) -> usize {
        // Nobody can give back what was not lent.
        (self.total as i64 - self.free) as usize
    }
}

impl TokenSemaphore {
    const_unless_loom! {
        /// A lane of `total` tokens, at most [`MAX_TOKENS`](super::MAX_TOKENS).
        pub(crate) fn lending(total: usize) -> Self {
            let rules = SemaphoreConfig { permits: (), bound: MAX_WAITING_FOR_TOKENS, order: Order::Fifo };
            Self::with_word(AtomicState::with_total(total), rules)
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.word.total()
    }

    /// Whether someone wants a token that its holder would use again: others wait than those `beside` who wait for the
    /// holder, more is lent than there is, or the lane is closed. One load.
    #[inline]
    pub(crate) fn wants_back(&self, beside: usize) -> bool {
        self.word.seen().wants_back(beside)
    }

    /// How many tokens a caller that comes now could have: none where somebody waits. One load.
    pub(crate) fn within_reach(&self) -> usize {
        let seen = self.word.seen();
        if seen.waiting() > 0 || seen.is_closed() { 0 } else { usize::try_from(seen.free()).unwrap_or(0) }
    }

    /// Gives tokens back, to those who are next in line if there is enough for them.
    #[inline]
    pub(crate) fn give_back(&self, tokens: Tokens) {
        if !self.try_give_back(tokens) {
            self.give_back_slowly(tokens);
        }
    }

    /// Gives tokens back if nobody waits for them. Then nobody is woken.
    #[inline]
    pub(crate) fn try_give_back(&self, tokens: Tokens) -> bool {
        self.word.try_exit(tokens)
    }

    #[cold]
    #[inline(never)]
    fn give_back_slowly(&self, tokens: Tokens) {
        wake_all(self.locked(|turns| turns.hand_over(tokens, || None)));
    }

    /// Gives up the place in the queue, or passes on the tokens that were set aside for it.
    pub(crate) fn withdraw(&self, ticket: WaiterId) -> CancelOutcome {
        self.leave(ticket, || None)
    }

    /// Changes how many tokens there are, to at most [`MAX_TOKENS`](super::MAX_TOKENS). Nobody is asked to give back.
    pub(crate) fn set_total(&self, total: usize) {
        wake_all(self.locked(|turns| turns.resize(self.word.replace_total(total))));
    }

    /// Refuses who waits and who comes.
    pub(crate) fn shut(&self) {
        self.refuse_all();
    }

    /// What goes on in the lane, at one moment.
    pub(crate) fn look_around(&self) -> TokenSnapshot {
        // Under the mutex, as the total and the word change one after the other.
        self.locked(|turns| {
            let seen = turns.word.seen();
            TokenSnapshot {
                total: turns.word.total(),
                free: seen.free(),
                waiting: seen.waiting(),
                is_closed: seen.is_closed(),
            }
        })
    }
}
