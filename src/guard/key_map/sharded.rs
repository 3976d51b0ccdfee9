//! [`Sharded`], which spreads keys over shards, so that callers of different keys seldom contend for a mutex.

use std::hash::{BuildHasher, Hash, RandomState};
use std::thread::available_parallelism;

use super::table::Hash64;

/// The number of shards for each processor, so that two callers that run at once seldom use the same shard.
const SHARDS_PER_PROCESSOR: usize = 16;
const MAX_SHARDS: usize = 1024;

/// A fixed number of shards, and the hasher that selects one of them.
#[derive(Debug)]
pub(crate) struct Sharded<S> {
    /// std's hasher: a client that chooses keys cannot predict its hashes.
    hasher: RandomState,
    shards: Box<[Padded<S>]>,
}

/// A value in its own pair of cache lines, because processors prefetch cache lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<S>(S);

/// Identifies an entry: the number of its shard, and its index in the shard's table.
///
/// Packed into one integer: the id is moved often, and copying two halves separately would cost more than the lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryId(u64);

impl<S> Sharded<S> {
    pub(crate) fn new(shard: impl Fn() -> S) -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::with_shards((SHARDS_PER_PROCESSOR * processors).min(MAX_SHARDS).next_power_of_two(), shard)
    }

    /// `count` must be a power of two.
    pub(crate) fn with_shards(count: usize, shard: impl Fn() -> S) -> Self {
        Self { hasher: RandomState::new(), shards: (0..count).map(|_| Padded(shard())).collect() }
    }

    /// Returns the key's hash and the number of its shard.
    #[inline]
    pub(crate) fn locate<K: Hash + ?Sized>(&self, key: &K) -> (Hash64, u32) {
        let hash = self.hasher.hash_one(key);
        // The middle bits select the shard, because the shard's table uses the top and the bottom bits.
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

impl EntryId {
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
