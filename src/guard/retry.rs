//! [`RetryEstimate`], from which the time until a retry is computed.

use std::time::Duration;

/// The values, as of the time of a refusal, from which the delay until a retry is estimated.
///
/// The delay is computed only on request, so that a refusal stays as cheap as a check of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryEstimate {
    /// The mean time between two releases of the guard's permits in microseconds. 0 if unknown.
    pub(super) interval: u32,
    /// The number of releases until the caller would be served: one more than the number of waiters.
    pub(super) releases: u16,
}

impl RetryEstimate {
    /// No estimate.
    pub(super) const NONE: Self = Self { interval: 0, releases: 0 };

    #[inline]
    pub(super) fn new(interval: u32, waiting: usize) -> Self {
        Self { interval, releases: u16::try_from(waiting + 1).unwrap_or(u16::MAX) }
    }

    pub(super) fn delay(self) -> Option<Duration> {
        (self.interval > 0).then(|| Duration::from_micros(self.interval.into()) * self.releases.into())
    }
}
