//! [`HoldTime`], which samples how long permits are held, but only while callers have to wait.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The weight of a new sample in the mean, as a divisor.
const SMOOTHING: i64 = 4;
/// The hold time, in nanoseconds, below which its exact value does not matter to a caller.
const QUICK: i64 = 1_000_000;
/// After this many quick holders in a row, only every 64th request gets a sample.
const MAX_QUICK: u32 = 12;

/// The mean time for which a permit is held.
///
/// Reading a clock costs more than acquiring a permit. So after the first holder, a holder is timed only if a caller
/// has been refused or has had to wait since the last sample. While all holders are quick, the estimate is "soon" in
/// any case, so fewer and fewer such callers cause a sample, down to every 64th.
#[derive(Debug)]
pub(crate) struct HoldTime {
    is_sample_due: AtomicBool,
    /// The number of requests for a sample. Concurrent callers may overwrite each other.
    requests: AtomicU32,
    /// The number of quick holders since the last one that was not quick, up to [`MAX_QUICK`].
    quick_in_a_row: AtomicU32,
    /// Nanoseconds, at least 1. 0 if unknown.
    mean: AtomicU64,
    /// The mean divided by the number of permits, in microseconds, at least 1. 0 if unknown.
    release_interval: AtomicU32,
}

impl HoldTime {
    pub(crate) const fn new() -> Self {
        Self {
            is_sample_due: AtomicBool::new(true),
            requests: AtomicU32::new(0),
            quick_in_a_row: AtomicU32::new(0),
            mean: AtomicU64::new(0),
            release_interval: AtomicU32::new(0),
        }
    }

    /// Called when a caller has to wait or to retry later, so that the hold time matters.
    #[inline]
    pub(crate) fn request_sample(&self) {
        if self.is_sample_due.load(Ordering::Relaxed) {
            return;
        }
        let requests = self.requests.load(Ordering::Relaxed).wrapping_add(1);
        self.requests.store(requests, Ordering::Relaxed);
        let interval = 1 << (self.quick_in_a_row.load(Ordering::Relaxed) / 2);
        if requests.is_multiple_of(interval) {
            self.is_sample_due.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the start time if this holder is to be timed.
    #[inline]
    pub(crate) fn start(&self) -> Option<Instant> {
        if self.is_sample_due.load(Ordering::Relaxed) { self.start_sample() } else { None }
    }

    #[cold]
    fn start_sample(&self) -> Option<Instant> {
        self.is_sample_due.store(false, Ordering::Relaxed);
        Some(Instant::now())
    }

    /// Adds a sample to the mean. Concurrent holders may overwrite each other: it is a mean, not a count.
    #[cold]
    pub(crate) fn finish(&self, since: Instant, permits: usize) {
        let sample = i64::try_from(since.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let mean = match self.mean.load(Ordering::Relaxed).cast_signed() {
            // The mean is unknown or quick: quick holds predict nothing about a slow one.
            ..QUICK => sample,
            mean => mean + (sample - mean) / SMOOTHING,
        };
        let is_quick = sample < QUICK;
        let quick = if is_quick { self.quick_in_a_row.load(Ordering::Relaxed) + 1 } else { 0 };
        self.quick_in_a_row.store(quick.min(MAX_QUICK), Ordering::Relaxed);
        let mean = mean.max(1).cast_unsigned();
        self.mean.store(mean, Ordering::Relaxed);
        let interval = u32::try_from(mean / permits.max(1) as u64 / 1_000).unwrap_or(u32::MAX);
        self.release_interval.store(interval.max(1), Ordering::Relaxed);
    }

    /// Returns the mean, if a holder has been timed.
    pub(crate) fn mean(&self) -> Option<Duration> {
        match self.mean.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Returns the mean time between two releases in microseconds, or 0 if it is unknown.
    #[inline]
    pub(crate) fn release_interval(&self) -> u32 {
        self.release_interval.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of `requests` requests caused a sample.
    fn samples(hold_time: &HoldTime, requests: u32) -> u32 {
        (0..requests)
            .map(|_| hold_time.request_sample())
            .filter_map(|()| hold_time.start())
            .map(|since| hold_time.finish(since, 1))
            .count() as u32
    }

    #[test]
    fn quick_holders_are_timed_less_and_less_often_and_again_at_once_after_a_slow_one() {
        let hold_time = HoldTime::new();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).expect("the machine has run for a second");
        assert!(samples(&hold_time, 6_400) > 100, "at least one in 64");
        assert_eq!(samples(&hold_time, 6_400), 100, "one in 64");
        hold_time.finish(long_ago, 1);
        assert!(hold_time.mean() >= Some(Duration::from_secs(1)), "quick holds predict nothing about a slow one");
        assert_eq!(samples(&hold_time, 1), 1);
    }
}
