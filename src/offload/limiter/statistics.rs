//! [`LimiterStatistics`], what a limiter lends right now.

use super::capacity_limiter::CapacityLimiter;

/// What a [`CapacityLimiter`] lends right now, and how many had to wait so far.
///
/// `total`, `borrowed`, `available` and `waiting` are those of one moment, and so are the three of the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LimiterStatistics {
    /// How many tokens there are, without the reserve.
    pub total: usize,
    /// Tokens that are lent, those set aside for a caller whose turn has just come among them. More than `total` after
    /// the total has shrunk below it.
    pub borrowed: usize,
    /// `total` − `borrowed`: less than zero if so many must come back before one is lent again. More than zero while
    /// somebody waits if it is too few for whoever waits first.
    pub available: i64,
    /// Callers that wait for tokens, without those that wait for the reserve.
    pub waiting: usize,
    /// How many tokens there are in reserve.
    pub reserve: usize,
    /// Tokens of the reserve that are lent.
    pub reserve_borrowed: usize,
    /// Callers that wait for a token of the reserve.
    pub reserve_waiting: usize,
    /// The limiter was closed.
    pub closed: bool,

    /// Callers that had to wait, since the start.
    pub queued: u64,
    /// Callers that left while they waited, or before they took what had been set aside for them, since the start.
    pub cancelled: u64,
}

impl CapacityLimiter {
    /// What is lent right now, and how many had to wait so far.
    ///
    /// Takes the lock under which callers line up, for a moment: not for every request.
    #[must_use]
    pub fn statistics(&self) -> LimiterStatistics {
        let [ordinary, reserve] = self.semaphores.both();
        let (now, in_reserve) = (ordinary.snapshot(), reserve.snapshot());
        LimiterStatistics {
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
