//! [`Random`], a generator of reproducible random numbers.

/// Marsaglia's xorshift: random enough to choose a caller's next step, and the same in every run.
///
/// The seed must not be zero.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns a number from 0 to `limit - 1`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The remainder fits into `usize` because it is smaller than `limit`.
        (self.0 % limit as u64) as usize
    }
}
