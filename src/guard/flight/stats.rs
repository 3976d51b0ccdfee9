//! [`FlightStats`], what a single flight has done so far and does right now.

/// What a [`SingleFlight`](super::SingleFlight) has done so far and does right now, read without a lock.
///
/// Each number is exact; between two numbers of one reading a moment may have passed. Counters start at 0 and never
/// go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FlightStats {
    /// The flight's name.
    pub name: &'static str,
    /// Keys with a run.
    pub running: usize,
    /// Callers that wait for a run, those that began one among them.
    pub waiting: usize,

    /// Runs that were begun.
    pub runs: u64,
    /// Callers that shared a run which another had begun.
    pub shared: u64,
    /// Runs that all their callers had left: they were dropped, or came to their end in that moment, for nobody.
    pub cancelled: u64,
    /// Runs that panicked.
    pub panicked: u64,
    /// Callers that were turned away at once: too many waited, or they would have waited for themselves.
    pub refused: u64,
    /// Callers that waited as long as `wait_timeout` in vain.
    pub timed_out: u64,
}
