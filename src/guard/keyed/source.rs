//! [`KeyedSource`], through which one caller acquires and releases a permit of a key.

use std::hash::Hash;
use std::mem;
use std::ops::Deref;
use std::task::Waker;

use tokio::time::Instant;

use super::keyed_guard::{KeyedGuard, SharedKeyedGuard};
use super::shard::Shard;
use crate::backend::LockName;
use crate::guard::core::GuardCore;
use crate::guard::key_map::{EntryId, Hash64};
use crate::guard::source::{OwnedPermitSource, PermitSource};
use crate::scope::ScopeId;
use crate::semaphore::{CancelOutcome, EnqueueOutcome, ReleaseOutcome, SemaphoreRefusal, WaitOutcome, WaiterId};

/// A guard and one of its keys, in the types of keyed permits and futures. `G` is a reference to the guard or shares
/// ownership of it.
#[derive(Debug)]
pub struct KeyedSource<K, G> {
    guard: G,
    key: SourceKey<K>,
    /// The name of the key for other processes, if the guard is distributed.
    lock_name: Option<Box<LockName>>,
}

/// The caller's key, or the entry of the key.
#[derive(Debug)]
enum SourceKey<K> {
    /// The key of a caller that does not use an entry yet.
    Key(K),
    /// The entry in whose queue the caller waits, or one of whose permits it holds.
    Entry(EntryId),
    /// The wait ended without a permit, while this many callers were still waiting.
    Ended { waiting: usize },
}

impl<K, G> KeyedSource<K, G>
where
    K: Hash + Eq,
    G: Deref<Target = KeyedGuard<K>>,
{
    #[inline]
    pub(crate) fn new(guard: G, key: K) -> Self {
        let lock_name = guard.lock_name(&key);
        Self { guard, key: SourceKey::Key(key), lock_name }
    }

    /// Returns a copy of the key of a permit.
    pub(super) fn permit_key(&self) -> K
    where
        K: Clone,
    {
        let (entry, shard) = self.entry();
        shard.key(entry.index())
    }

    /// Passes the key to its shard. The shard takes the key if it is a new one.
    #[inline]
    fn with_key<R>(
        &mut self,
        acquire: impl FnOnce(&KeyedGuard<K>, &Shard<K>, Hash64, &mut Option<K>) -> Result<(u32, R), SemaphoreRefusal>,
    ) -> Result<R, SemaphoreRefusal> {
        let SourceKey::Key(key) = mem::replace(&mut self.key, SourceKey::Ended { waiting: 0 }) else {
            unreachable!("a caller uses its key until it has an entry")
        };
        let keys = self.guard.keys();
        let (hash, shard) = keys.locate(&key);
        let mut key = Some(key);
        match acquire(&self.guard, keys.shard(shard), hash, &mut key) {
            Ok((index, result)) => {
                self.key = SourceKey::Entry(EntryId::new(shard, index));
                Ok(result)
            }
            Err(refusal) => {
                if let Some(key) = key {
                    self.key = SourceKey::Key(key);
                }
                Err(refusal)
            }
        }
    }

    #[inline]
    fn find_entry(&self) -> Option<(EntryId, &Shard<K>)> {
        match &self.key {
            SourceKey::Entry(entry) => Some((*entry, self.guard.keys().shard(entry.shard()))),
            _ => None,
        }
    }

    fn entry(&self) -> (EntryId, &Shard<K>) {
        self.find_entry().expect("a caller that waits or holds a permit has an entry")
    }
}

impl<K, G> PermitSource for KeyedSource<K, G>
where
    K: Hash + Eq,
    G: Deref<Target = KeyedGuard<K>>,
{
    #[inline]
    fn core(&self) -> &GuardCore {
        &self.guard.core
    }

    fn permits(&self) -> usize {
        self.guard.semaphore_config.permits
    }

    fn waits(&self) -> bool {
        self.guard.semaphore_config.bound > 0
    }

    fn waiting(&self) -> usize {
        match &self.key {
            SourceKey::Key(key) => {
                let keys = self.guard.keys();
                let (hash, shard) = keys.locate(key);
                keys.shard(shard).waiting_for(hash, key)
            }
            SourceKey::Ended { waiting } => *waiting,
            SourceKey::Entry(entry) => self.guard.keys().shard(entry.shard()).waiting_of(entry.index()),
        }
    }

    #[inline]
    fn try_acquire(&mut self) -> Result<(), SemaphoreRefusal> {
        self.with_key(|guard, shard, hash, key| shard.try_acquire(guard.shard_config(), hash, key).map(|i| (i, ())))
    }

    fn enqueue(&mut self, waker: &Waker) -> EnqueueOutcome {
        match self.with_key(|guard, shard, hash, key| shard.enqueue(guard.shard_config(), hash, key, waker)) {
            Ok(outcome) => outcome,
            Err(refusal) => EnqueueOutcome::Refused(refusal),
        }
    }

    fn poll(&mut self, waiter: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome> {
        let (entry, shard) = self.entry();
        let (outcome, waiting) = shard.poll(self.guard.shard_config(), entry.index(), waiter, waker);
        if matches!(outcome, Some(WaitOutcome::Expired | WaitOutcome::Evicted | WaitOutcome::Closed)) {
            self.key = SourceKey::Ended { waiting };
        }
        outcome
    }

    fn poll_final(&mut self, waiter: WaiterId) -> Option<WaitOutcome> {
        let (entry, shard) = self.entry();
        let (outcome, waiting) = shard.poll_final(self.guard.shard_config(), entry.index(), waiter);
        if outcome != Some(WaitOutcome::Acquired) {
            self.key = SourceKey::Ended { waiting };
        }
        outcome
    }

    fn cancel(&mut self, waiter: WaiterId) -> CancelOutcome {
        let (entry, shard) = self.entry();
        let outcome = shard.cancel(self.guard.shard_config(), entry.index(), waiter, self.core().grant_time());
        self.key = SourceKey::Ended { waiting: 0 };
        outcome
    }

    #[inline]
    fn release(&mut self) -> ReleaseOutcome {
        let (entry, shard) = self.entry();
        match shard.release(self.guard.shard_config(), entry.index(), || self.core().grant_time()) {
            ReleaseOutcome::Drained if !self.guard.is_drained() => ReleaseOutcome::Available,
            outcome => outcome,
        }
    }

    fn forget(&mut self) -> bool {
        let (_, shard) = self.entry();
        shard.forget();
        self.guard.is_drained()
    }

    fn expire_grants(&mut self, limit: Instant, now: Instant) -> (usize, Option<Instant>) {
        let (entry, shard) = match (&self.key, self.find_entry()) {
            (_, Some(found)) => found,
            (SourceKey::Key(key), None) => {
                let keys = self.guard.keys();
                let (hash, number) = keys.locate(key);
                let shard = keys.shard(number);
                return shard.expire_grants_of_key(self.guard.shard_config(), hash, key, limit, now);
            }
            _ => return (0, None),
        };
        shard.expire_grants(self.guard.shard_config(), entry.index(), limit, now)
    }

    fn lock_name(&self) -> LockName {
        self.lock_name.as_deref().cloned().expect("a distributed guard names its keys")
    }

    fn is_closed(&self) -> bool {
        self.guard.is_closed()
    }

    fn is_drained(&self) -> bool {
        self.guard.is_drained()
    }

    fn key_hash(&self) -> Option<Hash64> {
        match &self.key {
            SourceKey::Key(key) => Some(self.guard.keys().locate(key).0),
            SourceKey::Entry(entry) => Some(self.guard.keys().shard(entry.shard()).hash(entry.index())),
            SourceKey::Ended { .. } => None,
        }
    }

    fn scope(&self) -> Option<ScopeId> {
        let keys = self.guard.keys();
        let entry = match &self.key {
            SourceKey::Entry(entry) => *entry,
            SourceKey::Key(key) => {
                let (hash, shard) = keys.locate(key);
                EntryId::new(shard, keys.shard(shard).find(hash, key)?)
            }
            SourceKey::Ended { .. } => return None,
        };
        let guard: &KeyedGuard<K> = &self.guard;
        Some((std::ptr::from_ref(guard).addr(), entry.to_bits()))
    }
}

impl<K> OwnedPermitSource for KeyedSource<K, SharedKeyedGuard<K>>
where
    K: Hash + Eq + Send + 'static,
{
    type Guard = SharedKeyedGuard<K>;

    fn guard(&self) -> Self::Guard {
        self.guard.clone()
    }
}
