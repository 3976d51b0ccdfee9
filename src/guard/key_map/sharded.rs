//! [`Sharded`], which spreads keys over shards so that callers of different keys seldom meet at a mutex.

use std::hash::{BuildHasher, Hash, RandomState};
use std::thread::available_parallelism;

use super::table::Hash64;

/// Shards for each processor: so many that two callers that run at once seldom ask for the same one.
const SHARDS_A_PROCESSOR: usize = 16;
const MOST_SHARDS: usize = 1024;

/// A fixed number of shards, and the hasher that chooses among them.
#[derive(Debug)]
pub(crate) struct Sharded<S> {
    /// std's: its hashes can't be foreseen by a client who chooses keys.
    hasher: RandomState,
    shards: Box<[Padded<S>]>,
}

/// On cache lines of its own, two of which processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<S>(S);

/// Where an entry is: its shard, and its index in the table there.
///
/// One word: a place is moved around, and copying two halves as one would cost more than the lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot(u64);

impl<S> Sharded<S> {
    pub(crate) fn new(shard: impl Fn() -> S) -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::with_shards((SHARDS_A_PROCESSOR * processors).min(MOST_SHARDS).next_power_of_two(), shard)
    }

    /// `count` is a power of two.
    pub(crate) fn with_shards(count: usize, shard: impl Fn() -> S) -> Self {
        Self { hasher: RandomState::new(), shards: (0..count).map(|_| Padded(shard())).collect() }
    }

    /// The key's hash, and its shard's number.
    #[inline]
    pub(crate) fn locate<K: Hash>(&self, key: &K) -> (Hash64, u32) {
        let hash = self.hasher.hash_one(key);
        // The table in the shard uses the uppermost bits, and those at the bottom.
        let shard = (hash >> 32) as usize & (self.shards.len() - 1);
        (Hash64(hash), shard as u32)
    }

    #[inline]
    pub(crate) fn shard(&self, number: u32) -> &S {
        &self.shards[number as usize].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &S> {
        self.shards.iter().map(|shard| &shard.0)
    }
}

impl Spot {
    #[inline]
    pub(crate) fn new(shard: u32, index: u32) -> Self {
        Self(u64::from(shard) << 32 | u64::from(index))
    }

    #[inline]
    pub(crate) fn shard(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }
}
