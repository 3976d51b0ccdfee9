//! [`FlightStats`], a snapshot of a single flight's counters.

use std::borrow::Cow;

/// A snapshot of the counters of a [`SingleFlight`](super::SingleFlight), read without a lock.
///
/// Each number is exact, but the numbers are read one after another and may be from slightly different moments.
/// Counters of events start at 0 and never decrease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FlightStats {
    /// The name of the single flight.
    pub name: Cow<'static, str>,
    /// Keys that have a run.
    pub running: usize,
    /// Callers that wait for a run, including those that started one.
    pub waiting: usize,

    /// Runs that were started.
    pub runs: u64,
    /// Callers that shared a run which another caller had started.
    pub shared: u64,
    /// Runs that all callers left. Their work was dropped, or it completed at that moment and its result was discarded.
    pub cancelled: u64,
    /// Runs that panicked.
    pub panicked: u64,
    /// Callers that were refused at once: the run had too many waiters, or the caller would have waited for itself.
    pub refused: u64,
    /// Callers that waited for the whole `max_wait` and got no result.
    pub timed_out: u64,
}
