//! The queries of a [`Shard`] about its keys, which do not change its state.

use super::shard::Shard;
use crate::guard::key_map::Hash64;
use crate::semaphore::{SemaphoreSnapshot, SemaphoreState, WaitCounters};
use crate::sync::atomic::Ordering;
use crate::sync::lock;

impl<K: Eq> Shard<K> {
    /// Returns the index of a key's entry.
    pub(crate) fn find(&self, hash: Hash64, key: &K) -> Option<u32> {
        lock(&self.entries).table.find(hash, key)
    }

    /// Returns a copy of the key of an entry. The clone runs with the mutex held, as comparisons of keys do.
    pub(crate) fn key(&self, index: u32) -> K
    where
        K: Clone,
    {
        lock(&self.entries).table.key(index).clone()
    }

    /// Returns the hash of an entry's key.
    pub(crate) fn hash(&self, index: u32) -> Hash64 {
        lock(&self.entries).table.hash(index)
    }

    /// Returns how many callers wait for a key.
    pub(crate) fn waiting_for(&self, hash: Hash64, key: &K) -> usize {
        let mut entries = lock(&self.entries);
        let Some(index) = entries.table.find(hash, key) else { return 0 };
        entries.table.value(index).state.get().waiting()
    }

    /// Returns how many callers wait for the key of an entry.
    pub(crate) fn waiting_of(&self, index: u32) -> usize {
        lock(&self.entries).table.value(index).state.get().waiting()
    }

    /// Returns the sum of the counters of all keys. Takes no lock.
    pub(crate) fn snapshot(&self) -> SemaphoreSnapshot {
        SemaphoreSnapshot {
            held: self.held.value() as usize,
            waiting: self.waiting.value() as usize,
            granted: self.granted.value(),
            is_closed: self.is_closed.load(Ordering::Relaxed),
        }
    }

    /// Returns the number of keys. Takes no lock.
    pub(crate) fn len(&self) -> usize {
        self.keys.value() as usize
    }

    pub(crate) fn wait_counters(&self) -> &WaitCounters {
        &self.wait_counters
    }
}
