//! [`LimiterStats`], a snapshot of a limiter.

use super::capacity_limiter::CapacityLimiter;

/// A snapshot of the tokens and the queue of a [`CapacityLimiter`], and how many callers have waited so far.
///
/// `total`, `borrowed`, `available` and `waiting` are taken at the same moment, and so are the three values of the
/// reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LimiterStats {
    /// The number of tokens, excluding the reserve.
    pub total: usize,
    /// Tokens that are held, including those granted to a caller that has not taken them yet. More than `total` after
    /// the total was reduced below it.
    pub borrowed: usize,
    /// `total` − `borrowed`. If this is negative, that many tokens must be released before a released token can be
    /// acquired again. If this is positive while callers are queued, the free tokens are too few for the first caller.
    pub available: i64,
    /// Callers in the queue, excluding those that wait for the reserve.
    pub waiting: usize,
    /// The number of tokens in the reserve.
    pub reserve: usize,
    /// Tokens of the reserve that are held.
    pub reserve_borrowed: usize,
    /// Callers that wait for a token of the reserve.
    pub reserve_waiting: usize,
    /// `true` if the limiter was closed.
    pub closed: bool,

    /// Callers that had to wait, since the limiter was created.
    pub queued: u64,
    /// Callers that stopped waiting, or did not take the tokens granted to them, since the limiter was created.
    pub cancelled: u64,
}

impl CapacityLimiter {
    /// Returns the tokens and the queue at this moment, and how many callers have waited so far.
    ///
    /// The call briefly takes the lock of the queue, so don't make it for every request.
    #[must_use]
    pub fn stats(&self) -> LimiterStats {
        let [ordinary, reserve] = self.semaphores.both();
        let (now, in_reserve) = (ordinary.snapshot(), reserve.snapshot());
        LimiterStats {
            total: now.total,
            borrowed: now.held(),
            available: now.available,
            waiting: now.waiting,
            reserve: in_reserve.total,
            reserve_borrowed: in_reserve.held(),
            reserve_waiting: in_reserve.waiting,
            closed: now.is_closed,
            queued: ordinary.counters.queued.value() + reserve.counters.queued.value(),
            cancelled: ordinary.counters.cancelled.value() + reserve.counters.cancelled.value(),
        }
    }
}
