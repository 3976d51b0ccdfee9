//! [`Counter`], a number that is read without a lock.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::const_unless_loom;

#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const_unless_loom! {
        pub(crate) fn new() -> Self {
            Self(AtomicU64::new(0))
        }
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds `n` with a plain store instead of an atomic addition.
    ///
    /// Must be called only where no other thread changes the counter at the same time, such as with a mutex held.
    #[inline]
    pub(crate) fn add_exclusive(&self, n: u64) {
        self.0.store(self.value().wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts `n` with a plain store, under the same condition as [`add_exclusive`](Self::add_exclusive).
    #[inline]
    pub(crate) fn subtract_exclusive(&self, n: u64) {
        self.0.store(self.value().wrapping_sub(n), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
