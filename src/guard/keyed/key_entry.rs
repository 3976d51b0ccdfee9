//! [`KeyEntry`], the semaphore of one key, and [`ShardConfig`], the config that all keys of a guard share.

use std::cell::Cell;

use crate::counter::Counter;
use crate::semaphore::{PermitState, SemaphoreConfig, SemaphoreState, StateCell, WaiterList};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::const_unless_loom;

/// The maximum number of keys in all shards together, and the number of keys in use.
#[derive(Debug)]
pub(crate) struct KeyLimit {
    max: usize,
    used: AtomicUsize,
}

/// The config that all keys of a guard share. It is passed to every method of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardConfig<'a> {
    pub(crate) semaphore: &'a SemaphoreConfig,
    pub(crate) key_limit: Option<&'a KeyLimit>,
}

/// The semaphore of one key.
#[derive(Debug)]
pub(super) struct KeyEntry {
    pub(super) state: Cell<PermitState>,
    pub(super) waiters: WaiterList,
}

/// A key's state while the shard's mutex is held.
pub(super) struct LockedState<'a> {
    pub(super) state: &'a Cell<PermitState>,
    pub(super) granted: &'a Counter,
}

impl KeyLimit {
    const_unless_loom! {
        pub(crate) fn new(max: usize) -> Self {
            Self { max, used: AtomicUsize::new(0) }
        }
    }

    /// Counts one more key. Returns `false` if the maximum is reached.
    pub(super) fn try_add(&self) -> bool {
        let one_more = |used| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    pub(super) fn remove(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

impl KeyEntry {
    /// Creates the entry of a new key, whose first permit the caller acquires.
    pub(super) fn acquired() -> Self {
        Self { state: Cell::new(PermitState(0).acquired(())), waiters: WaiterList::new() }
    }
}

impl StateCell for LockedState<'_> {
    type State = PermitState;

    fn load(&self) -> PermitState {
        self.state.get()
    }

    fn compare_exchange(&self, _: PermitState, next: PermitState) -> Result<(), PermitState> {
        self.state.set(next);
        Ok(())
    }

    fn store(&self, next: PermitState) {
        self.state.set(next);
    }

    fn release(&self, (): ()) {
        self.state.set(self.state.get().released(()));
    }

    fn close(&self) {
        self.state.set(self.state.get().closed());
    }

    fn count_grant(&self, _: PermitState) {
        self.granted.add_exclusive(1);
    }
}
