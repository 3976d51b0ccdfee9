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

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::Counter;
    use crate::sync::{Mutex, lock};

    #[test]
    fn additions_with_a_mutex_held_are_not_lost_and_reads_without_it_never_go_back() {
        loom::model(|| {
            let shared = Arc::new((Mutex::new(()), Counter::new()));
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        let _held = lock(&shared.0);
                        shared.1.add_exclusive(1);
                    })
                })
                .collect();
            let (first, second) = (shared.1.value(), shared.1.value());
            assert!(first <= second && second <= 2, "{first} {second}");
            writers.into_iter().for_each(|writer| writer.join().expect("a writer does not panic"));
            assert_eq!(shared.1.value(), 2);
        });
    }
}
