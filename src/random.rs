//! Randomness that need not be secret: of backoff, jitter and identifiers.

use std::hash::{BuildHasher, RandomState};
use std::process;

/// Returns a random number.
pub(crate) fn bits() -> u64 {
    // Each `RandomState` has its own keys, so the hash differs from call to call. A process that is forked has a copy of
    // the keys, and another identifier.
    RandomState::new().hash_one(process::id())
}

/// Returns a random number from 0 up to, but not including, 1.
#[cfg(feature = "background")]
pub(crate) fn fraction() -> f64 {
    // An `f64` has 53 bits.
    const STEPS: f64 = (1_u64 << 53) as f64;
    (bits() >> 11) as f64 / STEPS
}

#[cfg(all(test, feature = "background"))]
mod tests {
    use super::*;

    #[test]
    fn fractions_spread_over_the_whole_range() {
        let mut counts = [0; 10];
        for _ in 0..10_000 {
            counts[(fraction() * 10.0) as usize] += 1;
        }
        // 1,000 each on average, with a standard deviation of 30.
        assert!(counts.iter().all(|count| (700..1_300).contains(count)), "{counts:?}");
    }
}
