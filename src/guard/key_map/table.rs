//! [`Table`], the keys of one shard, each with its value.
//!
//! # Invariants
//!
//! 1. An entry keeps its index from [`Table::insert`] until [`Table::remove`], whatever happens to other entries.
//! 2. A key is found exactly while its entry is linked. At most one linked entry has the key.
//! 3. While there are no entries, no heap memory is held.
//!
//! The first entry is stored in the table itself. A shard seldom has a second entry, so it seldom allocates.

use std::borrow::Borrow;
use std::{fmt, mem};

use hashbrown::HashTable;
use slab::Slab;

/// A key's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash64(pub(crate) u64);

impl fmt::Display for Hash64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[derive(Debug)]
pub(crate) struct Table<K, V> {
    /// The entry with index 0.
    first: Option<TableEntry<K, V>>,
    /// The other entries, from index 1 on.
    pub(super) rest: Slab<TableEntry<K, V>>,
    /// The positions in `rest` of the linked entries.
    pub(super) linked: HashTable<u32>,
}

#[derive(Debug)]
pub(super) struct TableEntry<K, V> {
    hash: Hash64,
    key: K,
    value: V,
    is_linked: bool,
}

/// A removed entry. It must be dropped after the mutex is unlocked, since dropping the key runs user code.
#[derive(Debug)]
#[must_use]
pub(crate) struct DeferredEntry<K, V> {
    _entry: TableEntry<K, V>,
    /// Boxed, because it is rare and large.
    _memory: Option<Box<TableMemory<K, V>>>,
}

/// The key of a removed entry whose value was dropped. It must be dropped after the mutex is unlocked, too.
#[derive(Debug)]
#[must_use]
pub(crate) struct DeferredKey<K, V> {
    _key: K,
    _memory: Option<Box<TableMemory<K, V>>>,
}

/// The heap memory of an empty table.
type TableMemory<K, V> = (Slab<TableEntry<K, V>>, HashTable<u32>);

impl<K: Eq, V> Table<K, V> {
    pub(crate) const fn new() -> Self {
        Self { first: None, rest: Slab::new(), linked: HashTable::new() }
    }

    /// Returns the index of the linked entry with this key.
    #[inline]
    pub(crate) fn find<Q: Eq + ?Sized>(&self, hash: Hash64, key: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
    {
        if let Some(first) = &self.first
            && first.is_linked
            && first.hash == hash
            && first.key.borrow() == key
        {
            return Some(0);
        }
        if self.linked.is_empty() {
            return None;
        }
        let has_key = |position: &u32| {
            let entry = &self.rest[*position as usize];
            entry.hash == hash && entry.key.borrow() == key
        };
        self.linked.find(hash.0, has_key).map(|position| position + 1)
    }

    /// Adds an entry and returns its index. No linked entry may have the key.
    #[inline]
    pub(crate) fn insert(&mut self, hash: Hash64, key: K, value: V) -> u32 {
        let entry = TableEntry { hash, key, value, is_linked: true };
        if self.first.is_none() {
            self.first = Some(entry);
            return 0;
        }
        let position = u32::try_from(self.rest.insert(entry)).expect("fewer than 2^32 keys");
        let rest = &self.rest;
        self.linked.insert_unique(hash.0, position, |position| rest[*position as usize].hash.0);
        position + 1
    }

    /// Returns the value of the entry with this index.
    #[inline]
    pub(crate) fn value(&mut self, index: u32) -> &mut V {
        &mut self.entry(index).value
    }

    /// Unlinks an entry, so that its key is no longer found. Returns `true` if the entry was linked.
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
    pub(crate) fn remove(&mut self, index: u32) -> DeferredEntry<K, V> {
        let entry = self.take(index);
        DeferredEntry { _entry: entry, _memory: self.take_unused_memory() }
    }

    /// Removes an entry and drops its value, which must not contain user values. Dropping the value here avoids moving
    /// it.
    #[inline]
    pub(crate) fn remove_and_drop_value(&mut self, index: u32) -> DeferredKey<K, V> {
        let TableEntry { key, .. } = self.take(index);
        DeferredKey { _key: key, _memory: self.take_unused_memory() }
    }

    #[inline]
    fn take(&mut self, index: u32) -> TableEntry<K, V> {
        match index.checked_sub(1) {
            None => self.first.take().expect("the index belongs to an entry"),
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
        found.expect("a linked entry is in the hash table").remove();
    }

    /// Takes the heap memory if there are no entries.
    #[inline]
    fn take_unused_memory(&mut self) -> Option<Box<TableMemory<K, V>>> {
        let is_unused = self.rest.capacity() > 0 && self.rest.is_empty() && self.first.is_none();
        is_unused.then(|| Box::new((mem::take(&mut self.rest), mem::take(&mut self.linked))))
    }

    /// Returns the key of an entry.
    pub(crate) fn key(&mut self, index: u32) -> &K {
        &self.entry(index).key
    }

    /// Returns the hash of an entry's key.
    #[inline]
    pub(crate) fn hash(&mut self, index: u32) -> Hash64 {
        self.entry(index).hash
    }

    /// Returns the values of all entries, including those that are not linked.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.first.iter().chain(self.rest.iter().map(|(_, entry)| entry)).map(|entry| &entry.value)
    }

    /// Returns the indices of all entries.
    pub(crate) fn indices(&self) -> Vec<u32> {
        let rest = self.rest.iter().map(|(position, _)| position as u32 + 1);
        self.first.iter().map(|_| 0).chain(rest).collect()
    }

    #[inline]
    fn entry(&mut self, index: u32) -> &mut TableEntry<K, V> {
        match index.checked_sub(1) {
            None => self.first.as_mut().expect("the index belongs to an entry"),
            Some(position) => &mut self.rest[position as usize],
        }
    }
}
