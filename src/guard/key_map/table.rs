//! [`Table`], the keys of one shard and what belongs to each.
//!
//! # Invariants
//!
//! 1. An entry has one index from [`Table::insert`] until [`Table::remove`], whatever happens to the others.
//! 2. A key is found exactly while its entry is linked; at most one linked entry has it.
//! 3. Without entries there is no heap memory.
//!
//! The first entry stands in the table itself: a shard seldom has a second one, and then it allocates nothing.

#[cfg(all(test, not(loom)))]
#[path = "property_tests.rs"]
mod property_tests;

use std::mem;

use hashbrown::HashTable;
use slab::Slab;

/// A key's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash64(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Table<K, V> {
    /// Index 0.
    first: Option<Entry<K, V>>,
    /// The others, from index 1 on.
    rest: Slab<Entry<K, V>>,
    /// Positions in `rest` of those that are linked.
    linked: HashTable<u32>,
}

#[derive(Debug)]
struct Entry<K, V> {
    hash: Hash64,
    key: K,
    value: V,
    is_linked: bool,
}

/// What a removed entry leaves behind. Drop it after the mutex is unlocked: the key is the user's.
#[derive(Debug)]
#[must_use]
pub(crate) struct Garbage<K, V> {
    _entry: Entry<K, V>,
    /// In a box, as it is rare and large.
    _room: Option<Box<Room<K, V>>>,
}

/// What a dissolved entry leaves behind, to be dropped after the mutex is unlocked too.
#[derive(Debug)]
#[must_use]
pub(crate) struct Relic<K, V> {
    _key: K,
    _room: Option<Box<Room<K, V>>>,
}

/// Memory for entries.
type Room<K, V> = (Slab<Entry<K, V>>, HashTable<u32>);

impl<K: Eq, V> Table<K, V> {
    pub(crate) const fn new() -> Self {
        Self { first: None, rest: Slab::new(), linked: HashTable::new() }
    }

    /// The index of the entry with that key.
    #[inline]
    pub(crate) fn find(&self, hash: Hash64, key: &K) -> Option<u32> {
        if let Some(first) = &self.first
            && first.is_linked
            && first.hash == hash
            && first.key == *key
        {
            return Some(0);
        }
        if self.linked.is_empty() {
            return None;
        }
        let is_it = |position: &u32| {
            let entry = &self.rest[*position as usize];
            entry.hash == hash && entry.key == *key
        };
        self.linked.find(hash.0, is_it).map(|position| position + 1)
    }

    /// Adds an entry whose key is not there, and returns its index.
    #[inline]
    pub(crate) fn insert(&mut self, hash: Hash64, key: K, value: V) -> u32 {
        let entry = Entry { hash, key, value, is_linked: true };
        if self.first.is_none() {
            self.first = Some(entry);
            return 0;
        }
        let position = u32::try_from(self.rest.insert(entry)).expect("fewer than 2^32 keys");
        let rest = &self.rest;
        self.linked.insert_unique(hash.0, position, |position| rest[*position as usize].hash.0);
        position + 1
    }

    /// The value at the index of an entry.
    #[inline]
    pub(crate) fn value(&mut self, index: u32) -> &mut V {
        &mut self.entry(index).value
    }

    /// The entry's key is no longer found. Returns whether it was.
    pub(crate) fn unlink(&mut self, index: u32) -> bool {
        let entry = self.entry(index);
        let hash = entry.hash;
        let was_linked = mem::replace(&mut entry.is_linked, false);
        if was_linked && let Some(position) = index.checked_sub(1) {
            self.unlink_at(position, hash);
        }
        was_linked
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, index: u32) -> Garbage<K, V> {
        let entry = self.take(index);
        Garbage { _entry: entry, _room: self.spare_room() }
    }

    /// Removes an entry whose value has nothing of the user's in it, and is dropped here: it is not moved around.
    #[inline]
    pub(crate) fn dissolve(&mut self, index: u32) -> Relic<K, V> {
        let Entry { key, .. } = self.take(index);
        Relic { _key: key, _room: self.spare_room() }
    }

    #[inline]
    fn take(&mut self, index: u32) -> Entry<K, V> {
        match index.checked_sub(1) {
            None => self.first.take().expect("the index is an entry's"),
            Some(position) => {
                let entry = self.rest.remove(position as usize);
                if entry.is_linked {
                    self.unlink_at(position, entry.hash);
                }
                entry
            }
        }
    }

    fn unlink_at(&mut self, position: u32, hash: Hash64) {
        let found = self.linked.find_entry(hash.0, |linked| *linked == position);
        found.expect("a linked entry is in the index").remove();
    }

    /// The memory, if there are no entries.
    #[inline]
    fn spare_room(&mut self) -> Option<Box<Room<K, V>>> {
        let is_spare = self.rest.capacity() > 0 && self.rest.is_empty() && self.first.is_none();
        is_spare.then(|| Box::new((mem::take(&mut self.rest), mem::take(&mut self.linked))))
    }

    /// The indices of all entries.
    pub(crate) fn indices(&self) -> Vec<u32> {
        let rest = self.rest.iter().map(|(position, _)| position as u32 + 1);
        self.first.iter().map(|_| 0).chain(rest).collect()
    }

    #[inline]
    fn entry(&mut self, index: u32) -> &mut Entry<K, V> {
        match index.checked_sub(1) {
            None => self.first.as_mut().expect("the index is an entry's"),
            Some(position) => &mut self.rest[position as usize],
        }
    }
}
