//! [`RacyCounter`], the critical section of the benchmarks.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that loses additions if two callers overlap, because it reads and writes in two steps.
#[derive(Debug, Default)]
pub struct RacyCounter(AtomicU64);

impl RacyCounter {
    /// Adds one and returns the new value.
    #[inline]
    pub fn add_one(&self) -> u64 {
        let value = self.get() + 1;
        self.0.store(value, Ordering::Relaxed);
        value
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Asserts that no addition was lost.
    #[track_caller]
    pub fn assert_total(&self, total: u64) {
        assert_eq!(self.get(), total, "callers overlapped, or calls were lost");
    }
}
