//! [`KeySemaphore`], the lane of one key, and [`Terms`], what holds for all of them.

use std::cell::Cell;

use crate::counter::Counter;
use crate::semaphore::{PermitState, SemaphoreConfig, State, StateCell, WaiterList};
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
    pub(crate) rules: &'a SemaphoreConfig,
    pub(crate) limit: Option<&'a KeyLimit>,
}

/// The lane of one key.
#[derive(Debug)]
pub(super) struct KeySemaphore {
    pub(super) word: Cell<PermitState>,
    pub(super) line: WaiterList,
}

/// A lane's word behind the shard's mutex.
pub(super) struct PlainState<'a> {
    pub(super) word: &'a Cell<PermitState>,
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

impl KeySemaphore {
    pub(super) fn entered() -> Self {
        Self { word: Cell::new(PermitState(0).entered()), line: WaiterList::new() }
    }
}

impl StateCell for PlainState<'_> {
    type PermitState = PermitState;

    fn load(&self) -> PermitState {
        self.word.get()
    }

    fn exchange(&self, _: PermitState, next: PermitState) -> Result<(), PermitState> {
        self.word.set(next);
        Ok(())
    }

    fn store(&self, next: PermitState) {
        self.word.set(next);
    }

    fn free(&self, (): ()) {
        self.word.set(self.word.get().left());
    }

    fn close(&self) {
        self.word.set(self.word.get().closed());
    }

    fn count_grant(&self, _: PermitState) {
        self.granted.add_alone(1);
    }
}
