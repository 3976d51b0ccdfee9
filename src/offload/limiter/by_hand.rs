//! Tokens without futures and permits, for a pool that waits for them on behalf of its jobs.
//!
//! One token at a time, of the ordinary ones. Whoever has one owes a [`give_back`](CapacityLimiter::give_back), and whoever
//! has a ticket an [`ask`](CapacityLimiter::ask) that answers, or a [`leave`](CapacityLimiter::leave).
#![cfg_attr(not(test), expect(dead_code, reason = "the pool that waits by hand is not there yet"))]

use std::task::Waker;

use super::capacity_limiter::CapacityLimiter;
use crate::lane::{Answer, Gone, Joined, Refused, Ticket, Tokens};

impl CapacityLimiter {
    /// Takes a token that is free while nobody waits.
    #[inline]
    pub(crate) fn try_enter(&self) -> Result<(), Refused> {
        self.lanes.ordinary().try_take(Tokens::ONE)
    }

    /// Takes a token that has come free, or the last place in the queue. The waker is woken when the turn has come, or the
    /// limiter is closed.
    pub(crate) fn join(&self, waker: &Waker) -> Joined {
        self.lanes.ordinary().line_up(Tokens::ONE, waker)
    }

    /// Asks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    pub(crate) fn ask(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> Option<Answer> {
        self.lanes.ordinary().ask(ticket, waker)
    }

    /// Gives up the place in the queue, or passes on the token that was set aside for it.
    pub(crate) fn leave(&self, ticket: Ticket) -> Gone {
        self.lanes.ordinary().withdraw(ticket)
    }

    /// Gives a token back, to the next in line if there is one.
    #[inline]
    pub(crate) fn give_back(&self) {
        self.lanes.ordinary().give_back(Tokens::ONE);
    }

    /// Whether a worker that would keep its token for its next job must give it back instead: someone waits, the total has
    /// shrunk below what is lent, or the limiter is closed. One relaxed load.
    #[inline]
    pub(crate) fn must_yield(&self) -> bool {
        self.lanes.ordinary().wants_back()
    }
}
