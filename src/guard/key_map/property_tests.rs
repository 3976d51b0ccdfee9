//! The table beside a map from index to entry, over random programs.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Hash64, Table};

const KEYS: u8 = 6;

/// One step of a program. The indices choose among the entries there are.
#[derive(Clone, Debug)]
enum Step {
    /// If the key is not found.
    Insert(u8),
    Unlink(usize),
    Remove(usize),
    Dissolve(usize),
    /// Replaces a value.
    Write(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS).prop_map(Step::Insert),
        2 => any::<usize>().prop_map(Step::Unlink),
        2 => any::<usize>().prop_map(Step::Remove),
        2 => any::<usize>().prop_map(Step::Dissolve),
        1 => any::<usize>().prop_map(Step::Write),
    ]
}

/// A key that shows how many of them there are.
#[derive(Clone, Debug)]
struct Key(u8, #[expect(dead_code, reason = "it is counted")] Arc<()>);

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

/// A table and a map that does the same.
struct Pair {
    table: Table<Key, (usize, Arc<()>)>,
    /// By index.
    known: BTreeMap<u32, Known>,
    /// So many hashes there are, for more keys.
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
        assert!(found.next().is_none(), "a key is linked once");
        index
    }

    fn with_entry(&mut self, which: usize, f: impl FnOnce(&mut Self, u32)) {
        if !self.known.is_empty() {
            let index = *self.known.keys().nth(which % self.known.len()).expect("it is one of them");
            f(self, index);
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Insert(key) => {
                if self.linked(key).is_none() {
                    self.insert(key);
                }
            }
            Step::Unlink(which) => self.with_entry(which, |pair, index| {
                let known = pair.known.get_mut(&index).expect("it is there");
                assert_eq!(pair.table.unlink(index), known.is_linked);
                known.is_linked = false;
            }),
            Step::Remove(which) => self.with_entry(which, |pair, index| {
                pair.known.remove(&index);
                let garbage = pair.table.remove(index);
                // What is the user's is dropped by the caller, not by the table.
                assert_eq!(Arc::strong_count(&pair.keys_alive), pair.known.len() + 2);
                assert_eq!(Arc::strong_count(&pair.values_alive), pair.known.len() + 2);
                drop(garbage);
            }),
            Step::Dissolve(which) => self.with_entry(which, |pair, index| {
                pair.known.remove(&index);
                let relic = pair.table.dissolve(index);
                assert_eq!(Arc::strong_count(&pair.keys_alive), pair.known.len() + 2);
                drop(relic);
            }),
            Step::Write(which) => self.with_entry(which, |pair, index| {
                let value = pair.value();
                pair.known.get_mut(&index).expect("it is there").value = value.0;
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
            assert_eq!((self.table.rest.capacity(), self.table.linked.capacity()), (0, 0), "it keeps memory");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn table_does_what_a_map_does(
        hashes in 1..=KEYS,
        program in prop::collection::vec(step(), 0..120),
        choice in any::<usize>(),
    ) {
        let mut pair = Pair::new(hashes);
        for step in &program {
            pair.take(step);
        }
        while !pair.known.is_empty() {
            pair.take(&Step::Dissolve(choice));
        }
    }
}

#[test]
fn a_key_that_is_unlinked_can_be_inserted_again_beside_its_old_entry() {
    for hashes in [1, KEYS] {
        let mut pair = Pair::new(hashes);
        // At index 0, and at another.
        let others = [pair.insert(0), pair.insert(1)];
        for old in others {
            let key = pair.known[&old].key;
            assert!(pair.table.unlink(old));
            pair.known.get_mut(&old).expect("it was inserted").is_linked = false;
            pair.compare();
            let new = pair.insert(key);
            assert_ne!(new, old);
            pair.compare();
            assert!(!pair.table.unlink(old), "the old one is not linked, though its key is");
            // Its going leaves the new one where it is.
            pair.known.remove(&old);
            drop(pair.table.remove(old));
            pair.compare();
        }
    }
}

#[test]
fn one_entry_needs_no_memory_but_its_own() {
    let mut pair = Pair::new(KEYS);
    for key in 0..KEYS {
        let index = pair.insert(key);
        assert_eq!((index, pair.table.rest.capacity(), pair.table.linked.capacity()), (0, 0, 0));
        pair.take(&Step::Dissolve(0));
    }
}

#[test]
fn the_last_of_many_entries_takes_their_memory_along_whichever_it_is() {
    for last in [0, 1, 57, 99] {
        let mut table = Table::new();
        for key in 0..100_u64 {
            assert_eq!(u64::from(table.insert(Hash64(key), key, ())), key);
        }
        for index in (0..100).filter(|index| *index != last) {
            drop(table.dissolve(index));
            assert!(table.rest.capacity() > 0, "the others may need it again");
        }
        drop(table.dissolve(last));
        assert_eq!((table.rest.capacity(), table.linked.capacity()), (0, 0));
    }
}
