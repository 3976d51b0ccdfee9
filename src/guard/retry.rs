//! When to come back: how long permits are held, sampled only while someone has to wait.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The weight of a new sample in the mean, as a divisor.
const SMOOTHING: i64 = 4;
/// A hold that nobody has to be told about, in nanoseconds.
const QUICK: i64 = 1_000_000;
/// From so many quick holders in a row on, every 64th caller has one timed.
const MOST_QUICK: u32 = 12;

/// The mean time for which a permit is held.
///
/// A clock costs more than a permit. So after the first holder nobody reads it until a caller has been turned away or made
/// to wait; then one holder is timed, and the next only after someone waited again. Where one holder after the other is
/// quick, and the answer is thus "soon" whatever the clock says, ever fewer such callers have one timed, down to every 64th.
#[derive(Debug)]
pub(crate) struct HoldTime {
    wanted: AtomicBool,
    /// How many asked. Concurrent callers may overwrite each other.
    asked: AtomicU32,
    /// How many timed holders were quick since one was not, up to [`MOST_QUICK`].
    quick_in_a_row: AtomicU32,
    /// Nanoseconds, at least 1. 0: not known yet.
    mean: AtomicU64,
}

impl HoldTime {
    pub(crate) const fn new() -> Self {
        Self {
            wanted: AtomicBool::new(true),
            asked: AtomicU32::new(0),
            quick_in_a_row: AtomicU32::new(0),
            mean: AtomicU64::new(0),
        }
    }

    /// Someone has to wait or to come back: how long permits are held matters.
    #[inline]
    pub(crate) fn ask(&self) {
        if self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let asked = self.asked.load(Ordering::Relaxed).wrapping_add(1);
        self.asked.store(asked, Ordering::Relaxed);
        let skip = 1 << (self.quick_in_a_row.load(Ordering::Relaxed) / 2);
        if asked.is_multiple_of(skip) {
            self.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Starts to time a holder if one is to be timed.
    #[inline]
    pub(crate) fn start(&self) -> Option<Instant> {
        if self.wanted.load(Ordering::Relaxed) { self.start_sample() } else { None }
    }

    #[cold]
    fn start_sample(&self) -> Option<Instant> {
        self.wanted.store(false, Ordering::Relaxed);
        Some(Instant::now())
    }

    /// Takes the sample into the mean. Concurrent holders may overwrite each other: it is a mean, not a count.
    #[cold]
    pub(crate) fn finish(&self, since: Instant) {
        let sample = i64::try_from(since.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let mean = match self.mean.load(Ordering::Relaxed).cast_signed() {
            // Nothing known, or nothing worth knowing: a quick hold before says nothing about those that take time.
            ..QUICK => sample,
            mean => mean + (sample - mean) / SMOOTHING,
        };
        let is_quick = sample < QUICK;
        let quick = if is_quick { self.quick_in_a_row.load(Ordering::Relaxed) + 1 } else { 0 };
        self.quick_in_a_row.store(quick.min(MOST_QUICK), Ordering::Relaxed);
        self.mean.store(mean.max(1).cast_unsigned(), Ordering::Relaxed);
    }

    /// The mean so far, if any holder has been timed.
    pub(crate) fn mean(&self) -> Option<Duration> {
        match self.mean.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    #[inline]
    pub(crate) fn estimate(&self, waiting: usize, permits: usize) -> RetryEstimate {
        RetryEstimate {
            mean: self.mean.load(Ordering::Relaxed),
            turns: u32::try_from(waiting + 1).unwrap_or(u32::MAX),
            permits: u32::try_from(permits).unwrap_or(u32::MAX),
        }
    }
}

/// What a guard knew, when it refused, about when to come back.
///
/// Worked out only when asked for, so that a refusal stays as cheap as a look at the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryEstimate {
    mean: u64,
    turns: u32,
    permits: u32,
}

impl RetryEstimate {
    /// Mean hold × (callers waiting + 1) ÷ permits. `None` if no hold was measured yet.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        (self.mean > 0).then(|| Duration::from_nanos(self.mean).saturating_mul(self.turns) / self.permits.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many callers that ask have a holder timed.
    fn timed(hold_time: &HoldTime, asking: u32) -> u32 {
        (0..asking)
            .map(|_| hold_time.ask())
            .filter_map(|()| hold_time.start())
            .map(|since| hold_time.finish(since))
            .count() as u32
    }

    #[test]
    fn quick_holders_are_timed_ever_more_rarely_and_again_at_once_after_a_slow_one() {
        let hold_time = HoldTime::new();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).expect("the machine runs that long");
        assert!(timed(&hold_time, 6_400) > 100, "one in 64 at least");
        assert_eq!(timed(&hold_time, 6_400), 100, "one in 64");
        hold_time.finish(long_ago);
        assert!(hold_time.mean() >= Some(Duration::from_secs(1)), "quick holds before say nothing about a slow one");
        assert_eq!(timed(&hold_time, 1), 1);
    }
}
