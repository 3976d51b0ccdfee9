//! Compares the table with a map from index to entry over random programs.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::table::{Hash64, Table};

const KEYS: u8 = 6;

/// One step of a program. An index selects one of the existing entries.
#[derive(Clone, Debug)]
enum Step {
    /// Inserts the key if it is not found.
    Insert(u8),
    Unlink(usize),
    Remove(usize),
    RemoveAndDropValue(usize),
    /// Replaces a value.
    Write(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS).prop_map(Step::Insert),
        2 => any::<usize>().prop_map(Step::Unlink),
        2 => any::<usize>().prop_map(Step::Remove),
        2 => any::<usize>().prop_map(Step::RemoveAndDropValue),
        1 => any::<usize>().prop_map(Step::Write),
    ]
}

/// A key that counts its copies.
#[derive(Clone, Debug)]
struct Key(u8, #[expect(dead_code, reason = "its references are counted")] Arc<()>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Key {}

#[derive(Debug)]
struct Known {
    key: u8,
    value: usize,
    is_linked: bool,
}

/// A table, and a map that must do the same.
struct Pair {
    table: Table<Key, (usize, Arc<()>)>,
    /// The entries by index.
    known: BTreeMap<u32, Known>,
    /// The number of distinct hashes, at most the number of keys.
    hashes: u8,
    values: usize,
    keys_alive: Arc<()>,
    values_alive: Arc<()>,
}

impl Pair {
    fn new(hashes: u8) -> Self {
        Self {
            table: Table::new(),
            known: BTreeMap::new(),
            hashes,
            values: 0,
            keys_alive: Arc::default(),
            values_alive: Arc::default(),
        }
    }

    fn hash(&self, key: u8) -> Hash64 {
        Hash64(u64::from(key % self.hashes))
    }

    fn key(&self, key: u8) -> Key {
        Key(key, Arc::clone(&self.keys_alive))
    }

    fn value(&mut self) -> (usize, Arc<()>) {
        self.values += 1;
        (self.values, Arc::clone(&self.values_alive))
    }

    fn linked(&self, key: u8) -> Option<u32> {
        let mut found = self.known.iter().filter(|(_, known)| known.is_linked && known.key == key);
        let index = found.next().map(|(index, _)| *index);
        assert!(found.next().is_none(), "a key is linked at most once");
        index
    }

    fn with_entry(&mut self, choice: usize, f: impl FnOnce(&mut Self, u32)) {
        if !self.known.is_empty() {
            let index = *self.known.keys().nth(choice % self.known.len()).expect("the remainder is a valid position");
            f(self, index);
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Insert(key) => {
                if self.linked(key).is_none() {
                    self.insert(key);
                }
            }
            Step::Unlink(choice) => self.with_entry(choice, |pair, index| {
                let known = pair.known.get_mut(&index).expect("the entry exists");
                assert_eq!(pair.table.unlink(index), known.is_linked);
                known.is_linked = false;
            }),
            Step::Remove(choice) => self.with_entry(choice, |pair, index| {
                pair.known.remove(&index);
                let deferred = pair.table.remove(index);
                // The table does not drop the user's values: its caller does.
                assert_eq!(Arc::strong_count(&pair.keys_alive), pair.known.len() + 2);
                assert_eq!(Arc::strong_count(&pair.values_alive), pair.known.len() + 2);
                drop(deferred);
            }),
            Step::RemoveAndDropValue(choice) => self.with_entry(choice, |pair, index| {
                pair.known.remove(&index);
                let deferred = pair.table.remove_and_drop_value(index);
                assert_eq!(Arc::strong_count(&pair.keys_alive), pair.known.len() + 2);
                drop(deferred);
            }),
            Step::Write(choice) => self.with_entry(choice, |pair, index| {
                let value = pair.value();
                pair.known.get_mut(&index).expect("the entry exists").value = value.0;
                *pair.table.value(index) = value;
            }),
        }
        self.compare();
    }

    fn insert(&mut self, key: u8) -> u32 {
        let value = self.value();
        let number = value.0;
        let index = self.table.insert(self.hash(key), self.key(key), value);
        let before = self.known.insert(index, Known { key, value: number, is_linked: true });
        assert!(before.is_none(), "two entries have the index {index}");
        index
    }

    fn compare(&mut self) {
        for key in 0..KEYS {
            let found = self.table.find(self.hash(key), &self.key(key));
            assert_eq!(found, self.linked(key), "key {key}");
        }
        let mut indices = self.table.indices();
        indices.sort_unstable();
        assert!(indices.iter().eq(self.known.keys()), "{indices:?}, not {:?}", self.known.keys());
        for (index, known) in &self.known {
            assert_eq!(self.table.value(*index).0, known.value, "at index {index}");
        }
        assert_eq!(Arc::strong_count(&self.keys_alive), self.known.len() + 1);
        assert_eq!(Arc::strong_count(&self.values_alive), self.known.len() + 1);
        if self.known.is_empty() {
            assert_eq!(
                (self.table.rest.capacity(), self.table.linked.capacity()),
                (0, 0),
                "an empty table has no heap memory"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn table_behaves_like_a_map(
        hashes in 1..=KEYS,
        program in prop::collection::vec(step(), 0..120),
        choice in any::<usize>(),
    ) {
        let mut pair = Pair::new(hashes);
        for step in &program {
            pair.apply(step);
        }
        while !pair.known.is_empty() {
            pair.apply(&Step::RemoveAndDropValue(choice));
        }
    }
}

#[test]
fn unlinked_key_can_be_inserted_again_alongside_its_old_entry() {
    for hashes in [1, KEYS] {
        let mut pair = Pair::new(hashes);
        // One entry at index 0, the other at another index.
        let entries = [pair.insert(0), pair.insert(1)];
        for old in entries {
            let key = pair.known[&old].key;
            assert!(pair.table.unlink(old));
            pair.known.get_mut(&old).expect("the entry was inserted").is_linked = false;
            pair.compare();
            let new = pair.insert(key);
            assert_ne!(new, old);
            pair.compare();
            assert!(!pair.table.unlink(old), "the old entry is not linked, although its key is");
            // Removing the old entry does not move the new one.
            pair.known.remove(&old);
            drop(pair.table.remove(old));
            pair.compare();
        }
    }
}

#[test]
fn single_entry_needs_no_heap_memory() {
    let mut pair = Pair::new(KEYS);
    for key in 0..KEYS {
        let index = pair.insert(key);
        assert_eq!((index, pair.table.rest.capacity(), pair.table.linked.capacity()), (0, 0, 0));
        pair.apply(&Step::RemoveAndDropValue(0));
    }
}

#[test]
fn removing_the_last_of_many_entries_frees_their_memory_whichever_it_is() {
    for last in [0, 1, 57, 99] {
        let mut table = Table::new();
        for key in 0..100_u64 {
            assert_eq!(u64::from(table.insert(Hash64(key), key, ())), key);
        }
        for index in (0..100).filter(|index| *index != last) {
            drop(table.remove_and_drop_value(index));
            assert!(table.rest.capacity() > 0, "the memory is kept for further entries");
        }
        drop(table.remove_and_drop_value(last));
        assert_eq!((table.rest.capacity(), table.linked.capacity()), (0, 0));
    }
}
