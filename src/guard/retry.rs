//! [`RetryEstimate`], from which the time until a retry is computed.

use std::time::Duration;

/// The values, as of the time of a refusal, from which the delay until a retry is estimated.
///
/// The delay is computed only on request, so that a refusal stays as cheap as a check of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(unnameable_types, reason = "opaque: `AcquireError::retry_after` returns what it contains")]
pub struct RetryEstimate {
    /// The mean hold time in nanoseconds. 0 if unknown.
    mean: u64,
    /// The number of holds until the caller would be served: one more than the number of waiters.
    holds: u32,
    permits: u32,
}

impl RetryEstimate {
    #[inline]
    pub(super) fn new(mean: u64, waiting: usize, permits: usize) -> Self {
        Self {
            mean,
            holds: u32::try_from(waiting + 1).unwrap_or(u32::MAX),
            permits: u32::try_from(permits).unwrap_or(u32::MAX),
        }
    }

    /// Returns mean hold × (callers waiting + 1) ÷ permits, or `None` if no hold was measured yet.
    pub(super) fn delay(self) -> Option<Duration> {
        (self.mean > 0).then(|| Duration::from_nanos(self.mean).saturating_mul(self.holds) / self.permits.max(1))
    }
}
