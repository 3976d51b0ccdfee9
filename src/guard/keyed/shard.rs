//! [`Shard`], some of a guard's keys, each with its semaphore, protected by one mutex.
//!
//! # Invariants
//!
//! 1. A key has an entry exactly while a caller holds one of its permits, waits for one, or has not yet received the
//!    outcome of its wait. The last of these callers removes the entry, in the same critical section.
//! 2. So an index identifies the same entry as long as a caller holds a permit of the entry or is one of its waiters.
//! 3. Keys are hashed and dropped outside the mutex, but compared with the mutex held. A panic of `Eq` leaves the shard
//!    unchanged, because keys are compared before the first change.

use std::task::Waker;

use tokio::time::Instant;

use super::key_entry::{KeyEntry, LockedState, ShardConfig};
use crate::counter::Counter;
use crate::guard::key_map::{DeferredKey, Hash64, Table};
use crate::semaphore::{
    CancelOutcome, EnqueueOutcome, ReleaseOutcome, SemaphoreRefusal, SemaphoreState, StateCell, WaitCounters,
    WaitOutcome, WaitQueue, WaiterId, WaiterPoll, WaiterSlots,
};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};
use crate::wake::{wake, wake_all};

#[derive(Debug)]
pub(crate) struct Shard<K> {
    pub(super) entries: Mutex<Entries<K>>,
    pub(super) wait_counters: WaitCounters,
    pub(super) granted: Counter,
    pub(super) held: Counter,
    pub(super) waiting: Counter,
    pub(super) keys: Counter,
    /// Changes only under the mutex.
    pub(super) is_closed: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Entries<K> {
    pub(super) table: Table<K, KeyEntry>,
    slots: WaiterSlots,
}

type RemovedKey<K> = DeferredKey<K, KeyEntry>;

impl<K: Eq> Shard<K> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Mutex::new(Entries { table: Table::new(), slots: WaiterSlots::new() }),
            wait_counters: WaitCounters::new(),
            granted: Counter::new(),
            held: Counter::new(),
            waiting: Counter::new(),
            keys: Counter::new(),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Acquires a permit of a key if one is available. Returns the index of the key's entry. Takes the key if it is
    /// new.
    #[inline]
    pub(crate) fn try_acquire(
        &self,
        config: ShardConfig<'_>,
        hash: Hash64,
        key: &mut Option<K>,
    ) -> Result<u32, SemaphoreRefusal> {
        let mut entries = lock(&self.entries);
        let known = key.as_ref().expect("a caller passes its key");
        match entries.table.find(hash, known) {
            None => self.insert(&mut entries, config, hash, key),
            Some(index) => {
                let state = &entries.table.value(index).state;
                let seen = state.get();
                if !seen.admits(config.semaphore.permits, ()) {
                    return Err(if seen.is_closed() { SemaphoreRefusal::Closed } else { SemaphoreRefusal::Busy });
                }
                state.set(seen.acquired(()));
                self.granted.add_exclusive(1);
                self.held.add_exclusive(1);
                Ok(index)
            }
        }
    }

    /// Acquires a permit of a key if one was released in the meantime, or else adds the caller to the key's queue.
    /// Returns the index of the key's entry in both cases. Takes the key if it is new.
    pub(crate) fn enqueue(
        &self,
        config: ShardConfig<'_>,
        hash: Hash64,
        key: &mut Option<K>,
        waker: &Waker,
    ) -> Result<(u32, EnqueueOutcome), SemaphoreRefusal> {
        let mut waker = Some(waker.clone());
        let mut entries = lock(&self.entries);
        let known = key.as_ref().expect("a caller passes its key");
        match entries.table.find(hash, known) {
            None => self.insert(&mut entries, config, hash, key).map(|index| (index, EnqueueOutcome::Acquired)),
            Some(index) => {
                let (outcome, evicted) =
                    self.decide(&mut entries, config, index, |queue| queue.enqueue((), &mut waker));
                drop(entries);
                // The panic of this waker must not lose the id of the caller that was just queued.
                wake(evicted);
                match outcome {
                    EnqueueOutcome::Refused(refusal) => Err(refusal),
                    outcome => Ok((index, outcome)),
                }
            }
        }
    }

    /// Returns the outcome of the wait, or `None` while the caller is still waiting, and the number of callers of the
    /// key that still wait. An outcome also removes the waiter and clears its id.
    pub(crate) fn poll(
        &self,
        config: ShardConfig<'_>,
        index: u32,
        waiter: &mut Option<WaiterId>,
        waker: &Waker,
    ) -> (Option<WaitOutcome>, usize) {
        let mut spare = None;
        loop {
            let mut poll = |queue: &mut WaitQueue<'_, LockedState<'_>>| {
                (queue.poll(waiter, waker, &mut spare), queue.state.load().waiting())
            };
            let ((polled, waiting), _deferred) = self.with_queue(config, index, &mut poll);
            match polled {
                WaiterPoll::Pending => return (None, waiting),
                WaiterPoll::NeedsWaker => spare = Some(waker.clone()),
                WaiterPoll::Ready(outcome, _) => return (outcome, waiting),
            }
        }
    }

    /// Polls the waiter for the last time and removes it. Returns `None` if the waiter was still waiting, and the
    /// number of callers of the key that still wait.
    pub(crate) fn poll_final(
        &self,
        config: ShardConfig<'_>,
        index: u32,
        waiter: WaiterId,
    ) -> (Option<WaitOutcome>, usize) {
        let poll =
            |queue: &mut WaitQueue<'_, LockedState<'_>>| (queue.poll_final(waiter), queue.state.load().waiting());
        let ((removed, waiting), _deferred) = self.with_queue(config, index, poll);
        (removed.outcome, waiting)
    }

    /// Removes the waiter from the queue and releases its grant, if it has one.
    pub(crate) fn cancel(
        &self,
        config: ShardConfig<'_>,
        index: u32,
        waiter: WaiterId,
        granted_at: Option<Instant>,
    ) -> CancelOutcome {
        let (removed, _deferred) = self.with_queue(config, index, |queue| queue.cancel(waiter, || granted_at));
        wake_all(removed.wakers);
        removed.outcome
    }

    /// Releases a permit, or grants it to the next waiter if there is one. Returns
    /// [`Drained`](ReleaseOutcome::Drained) if the shard is closed.
    #[inline]
    pub(crate) fn release(
        &self,
        config: ShardConfig<'_>,
        index: u32,
        granted_at: impl Fn() -> Option<Instant>,
    ) -> ReleaseOutcome {
        let mut entries = lock(&self.entries);
        let is_closed = self.is_closed();
        let entry = entries.table.value(index);
        let seen = entry.state.get();
        if seen.is_uncontended() {
            let next = seen.released(());
            entry.state.set(next);
            self.held.subtract_exclusive(1);
            let is_unused = next.is_idle() && entry.waiters.is_empty();
            let deferred = is_unused.then(|| self.remove(&mut entries, config, index));
            drop(entries);
            drop(deferred);
            return ReleaseOutcome::Available;
        }
        let waker = self.decide(&mut entries, config, index, |queue| queue.release((), granted_at));
        let deferred = self.remove_if_unused(&mut entries, config, index);
        drop(entries);
        drop(deferred);
        match waker {
            Some(waker) => {
                wake_all([waker]);
                ReleaseOutcome::PassedOn
            }
            None if is_closed => ReleaseOutcome::Drained,
            None => ReleaseOutcome::Available,
        }
    }

    /// Revokes every untaken grant of an entry that was made at or before `limit`, and grants its permit to the next
    /// waiter.
    ///
    /// Returns the number of revoked grants and the time of the oldest remaining grant.
    pub(crate) fn expire_grants(
        &self,
        config: ShardConfig<'_>,
        index: u32,
        limit: Instant,
        now: Instant,
    ) -> (usize, Option<Instant>) {
        let (expired, _deferred) = self.with_queue(config, index, |queue| queue.expire_grants(limit, now));
        wake_all(expired.wakers);
        (expired.count, expired.oldest)
    }

    /// Revokes the grants of a key, as [`expire_grants`](Self::expire_grants) does.
    pub(crate) fn expire_grants_of_key(
        &self,
        config: ShardConfig<'_>,
        hash: Hash64,
        key: &K,
        limit: Instant,
        now: Instant,
    ) -> (usize, Option<Instant>) {
        let mut entries = lock(&self.entries);
        let Some(index) = entries.table.find(hash, key) else { return (0, None) };
        let expired = self.decide(&mut entries, config, index, |queue| queue.expire_grants(limit, now));
        drop(entries);
        wake_all(expired.wakers);
        (expired.count, expired.oldest)
    }

    /// Revokes the grants of all keys, as [`expire_grants`](Self::expire_grants) does. Returns the number of revoked
    /// grants.
    pub(crate) fn expire_all_grants(&self, config: ShardConfig<'_>, limit: Instant, now: Instant) -> usize {
        let mut count = 0;
        let mut wakers = Vec::new();
        let mut entries = lock(&self.entries);
        for index in entries.table.indices() {
            let expired = self.decide(&mut entries, config, index, |queue| queue.expire_grants(limit, now));
            count += expired.count;
            wakers.extend(expired.wakers);
        }
        drop(entries);
        wake_all(wakers);
        count
    }

    /// Refuses waiting and new callers. Returns the wakers of the waiting callers. Wake them after every shard is
    /// closed, because a waker may panic.
    pub(crate) fn close(&self, config: ShardConfig<'_>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut entries = lock(&self.entries);
        self.is_closed.store(true, Ordering::Relaxed);
        for index in entries.table.indices() {
            wakers.extend(self.decide(&mut entries, config, index, |queue| queue.close()));
        }
        wakers
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Returns `true` if the shard is closed, and no permit is held except those that were forgotten.
    pub(crate) fn is_drained(&self) -> bool {
        let _entries = lock(&self.entries);
        self.is_closed() && self.held.value() == self.wait_counters.forgotten.value()
    }

    /// Records that the holder of a permit never releases it.
    pub(crate) fn forget(&self) {
        let _entries = lock(&self.entries);
        self.wait_counters.forgotten.add_exclusive(1);
    }

    /// Adds an entry for a new key, whose first permit the caller acquires.
    #[inline]
    fn insert(
        &self,
        entries: &mut Entries<K>,
        config: ShardConfig<'_>,
        hash: Hash64,
        key: &mut Option<K>,
    ) -> Result<u32, SemaphoreRefusal> {
        if self.is_closed() {
            return Err(SemaphoreRefusal::Closed);
        }
        if config.key_limit.is_some_and(|limit| !limit.try_add()) {
            return Err(SemaphoreRefusal::TooManyKeys);
        }
        let key = key.take().expect("a caller passes its key");
        let index = entries.table.insert(hash, key, KeyEntry::acquired());
        self.keys.add_exclusive(1);
        self.granted.add_exclusive(1);
        self.held.add_exclusive(1);
        Ok(index)
    }

    /// Runs `decide` on an entry with the mutex held, and removes the entry if it is no longer used. The caller drops
    /// the result, and thus after the mutex is unlocked.
    fn with_queue<R>(
        &self,
        config: ShardConfig<'_>,
        index: u32,
        decide: impl FnOnce(&mut WaitQueue<'_, LockedState<'_>>) -> R,
    ) -> (R, Option<RemovedKey<K>>) {
        let mut entries = lock(&self.entries);
        let decision = self.decide(&mut entries, config, index, decide);
        let deferred = self.remove_if_unused(&mut entries, config, index);
        (decision, deferred)
    }

    /// Runs `decide` on an entry, and updates the shard's counters.
    fn decide<R>(
        &self,
        entries: &mut Entries<K>,
        config: ShardConfig<'_>,
        index: u32,
        decide: impl FnOnce(&mut WaitQueue<'_, LockedState<'_>>) -> R,
    ) -> R {
        let Entries { table, slots, .. } = entries;
        let KeyEntry { state, waiters } = table.value(index);
        let before = state.get();
        let (config, counters) = (config.semaphore, &self.wait_counters);
        let locked = &LockedState { state, granted: &self.granted };
        let decision = decide(&mut WaitQueue { config, state: locked, waiters, slots, counters });
        let after = state.get();
        // The differences may be negative: they wrap, as in two's complement.
        self.held.add_exclusive((after.held() as u64).wrapping_sub(before.held() as u64));
        self.waiting.add_exclusive((after.waiting() as u64).wrapping_sub(before.waiting() as u64));
        decision
    }

    fn remove_if_unused(&self, entries: &mut Entries<K>, config: ShardConfig<'_>, index: u32) -> Option<RemovedKey<K>> {
        let entry = entries.table.value(index);
        let is_unused = entry.state.get().is_idle() && entry.waiters.is_empty();
        is_unused.then(|| self.remove(entries, config, index))
    }

    #[inline]
    fn remove(&self, entries: &mut Entries<K>, config: ShardConfig<'_>, index: u32) -> RemovedKey<K> {
        self.keys.subtract_exclusive(1);
        if let Some(limit) = config.key_limit {
            limit.remove();
        }
        entries.table.remove_and_drop_value(index)
    }
}
