//! [`fraction`], the randomness of backoff and jitter.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Returns a random number from 0 up to, but not including, 1. The number must not be used for secrets.
pub(crate) fn fraction() -> f64 {
    // Each `RandomState` has its own keys, so the hash of an empty input differs from call to call. An `f64` has 53
    // bits.
    const STEPS: f64 = (1_u64 << 53) as f64;
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / STEPS
}

#[cfg(test)]
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
