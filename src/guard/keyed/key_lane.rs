//! [`KeyLane`], the lane of one key, and [`Terms`], what holds for all of them.

use std::cell::Cell;

use crate::counter::Counter;
use crate::lane::{LaneWord, Line, Rules, Word, WordCell};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::const_unless_loom;

/// How many keys there may be at once in all shards, and how many there are.
#[derive(Debug)]
pub(crate) struct KeyLimit {
    most: usize,
    taken: AtomicUsize,
}

/// What all callers of a shard's methods bring along.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) limit: Option<&'a KeyLimit>,
}

/// The lane of one key.
#[derive(Debug)]
pub(super) struct KeyLane {
    pub(super) word: Cell<Word>,
    pub(super) line: Line,
}

/// A lane's word behind the shard's mutex.
pub(super) struct PlainWord<'a> {
    pub(super) word: &'a Cell<Word>,
    pub(super) granted: &'a Counter,
}

impl KeyLimit {
    const_unless_loom! {
        pub(crate) fn new(most: usize) -> Self {
            Self { most, taken: AtomicUsize::new(0) }
        }
    }

    pub(super) fn take(&self) -> bool {
        let one_more = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    pub(super) fn free(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl KeyLane {
    pub(super) fn entered() -> Self {
        Self { word: Cell::new(Word(0).entered()), line: Line::new() }
    }
}

impl WordCell for PlainWord<'_> {
    type Word = Word;

    fn load(&self) -> Word {
        self.word.get()
    }

    fn exchange(&self, _: Word, next: Word) -> Result<(), Word> {
        self.word.set(next);
        Ok(())
    }

    fn store(&self, next: Word) {
        self.word.set(next);
    }

    fn free(&self, (): ()) {
        self.word.set(self.word.get().left());
    }

    fn close(&self) {
        self.word.set(self.word.get().closed());
    }

    fn count_grant(&self, _: Word) {
        self.granted.add_alone(1);
    }
}
