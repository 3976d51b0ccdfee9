//! [`KeyedGuard`], a gate for each key.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::acquire::{AcquireKey, AcquireKeyOwned};
use super::acquire_all::AcquireAll;
use super::builder::KeyedGuardBuilder;
use super::gate::KeyGate;
use super::key_semaphore::{KeyLimit, Terms};
use super::permit::{KeyedPermit, OwnedKeyedPermit};
use super::run::{RunKeyed, RunKeyedToCompletion};
use super::shard::Shard;
use crate::guard::blocking;
use crate::guard::core::{Core, Gate, HasCore};
use crate::guard::error::AcquireError;
use crate::guard::key_map::Sharded;
use crate::guard::permit::Held;
use crate::guard::shared::SharedKeyedGuard;
use crate::guard::stats::GuardStats;
use crate::guard::wait::Limits;
use crate::semaphore::{SemaphoreConfig, SemaphoreSnapshot, wake_all};

/// Admits one caller at a time, or N, for each key: a user, a tenant, a document.
///
/// Each key has a lane of its own, as an [`EndpointGuard`](crate::EndpointGuard) has one: the same order, the same
/// queue, the same errors. Callers of different keys don't wait for each other.
///
/// ```
/// use onelane::KeyedGuard;
///
/// static PER_USER: KeyedGuard<String> = KeyedGuard::new("user");
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), onelane::AcquireError> {
/// let ada = PER_USER.acquire("ada".to_owned()).await?;
/// assert!(PER_USER.try_acquire("ada".to_owned()).is_err(), "one at a time");
/// assert!(PER_USER.try_acquire("grace".to_owned()).is_ok(), "others are unaffected");
///
/// drop(ada);
/// assert!(PER_USER.is_empty(), "nothing of a key remains");
/// # Ok(())
/// # }
/// ```
///
/// # Keys
///
/// A key exists from the first caller that asks for it to the last that leaves, whether that one has finished, given up
/// its place, or was dropped as its turn came: the moment nobody holds it or waits for it, its memory is free for others,
/// and that of a shard of the map is given back when none of its keys is in use. (The map itself, some kilobytes for each
/// processor, is made at the first call.) Clients who choose keys can't make them
/// collide: they are hashed as std's `HashMap` hashes. And they can't claim more at once than
/// [`max_keys`](KeyedGuardBuilder::max_keys), if you set it.
///
/// `Eq` and `Hash` of the key agree with each other, and don't call the guard: keys are compared under a lock. Its `Drop`
/// may call the guard, but must not panic.
///
/// # Panics and cancellation
///
/// As with an [`EndpointGuard`](crate::EndpointGuard#panics-and-cancellation).
///
/// # When something else fits better
///
/// For a handful of keys known beforehand, one `EndpointGuard` each is simpler. If callers want the same *answer* rather
/// than a turn each, use a [`SingleFlight`](crate::SingleFlight).
pub struct KeyedGuard<K> {
    pub(super) core: Core,
    pub(super) rules: SemaphoreConfig,
    limit: Option<KeyLimit>,
    /// Made at the first call.
    keys: OnceLock<Sharded<Shard<K>>>,
}

impl<K> KeyedGuard<K> {
    /// A guard for one caller at a time of each key, in order, with unbounded queues.
    ///
    /// `name` is for you: it appears in [`stats`](Self::stats) and in logs. It needs not be unique.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self::builder(name).build()
    }

    /// Starts a guard with other settings.
    pub const fn builder(name: &'static str) -> KeyedGuardBuilder<K> {
        KeyedGuardBuilder::new(name)
    }

    pub(super) const fn from_parts(
        name: &'static str,
        rules: SemaphoreConfig,
        limits: Limits,
        limit: Option<KeyLimit>,
    ) -> Self {
        Self { core: Core::new(name, limits), rules, limit, keys: OnceLock::new() }
    }

    /// The name it was given.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.core.name
    }
}

impl<K: Hash + Eq> KeyedGuard<K> {
    /// Waits for a turn of `key`, in its queue.
    ///
    /// As [`EndpointGuard::acquire`](crate::EndpointGuard::acquire).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue. A turn that had come already goes to the next caller of the
    /// key, and if there is none, the key is gone.
    ///
    /// # Errors
    ///
    /// Those of [`EndpointGuard::acquire`](crate::EndpointGuard::acquire), and
    /// [`TooManyKeys`](AcquireError::TooManyKeys), at once, when `key` would be one more than `max_keys`.
    ///
    /// # Panics
    ///
    /// As [`EndpointGuard::acquire`](crate::EndpointGuard::acquire).
    pub fn acquire(&self, key: K) -> AcquireKey<'_, K> {
        AcquireKey::new(self, key)
    }

    /// Waits for a turn of `key`, in its queue, with a permit that can move to another task.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire); errors and panics too.
    pub fn acquire_owned(self: Arc<Self>, key: K) -> AcquireKeyOwned<K> {
        SharedKeyedGuard::from(self).acquire_owned(key)
    }

    /// Takes a turn of `key` if one is free and nobody waits for it.
    ///
    /// # Errors
    ///
    /// [`Busy`](AcquireError::Busy), [`TooManyKeys`](AcquireError::TooManyKeys) or [`Closed`](AcquireError::Closed), at
    /// once.
    #[inline]
    pub fn try_acquire(&self, key: K) -> Result<KeyedPermit<'_, K>, AcquireError> {
        let mut gate = KeyGate::new(self, key);
        gate.enter_now()?;
        Ok(KeyedPermit(Held::new(gate)))
    }

    /// Takes a turn of `key` if one is free and nobody waits for it, with a permit that can move to another task.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire).
    pub fn try_acquire_owned(self: Arc<Self>, key: K) -> Result<OwnedKeyedPermit<K>, AcquireError> {
        SharedKeyedGuard::from(self).try_acquire_owned(key)
    }

    /// Waits for a turn of `key` on this thread, in the same queue as the async callers.
    ///
    /// As [`EndpointGuard::acquire_blocking`](crate::EndpointGuard::acquire_blocking).
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire), and [`BlockingInAsync`](AcquireError::BlockingInAsync) on a thread that
    /// runs tasks of a tokio runtime, whether the key is free or not.
    pub fn acquire_blocking(&self, key: K) -> Result<KeyedPermit<'_, K>, AcquireError> {
        let mut gate = KeyGate::new(self, key);
        blocking::enter(&mut gate)?;
        Ok(KeyedPermit(Held::new(gate)))
    }

    /// Waits for a turn of every one of `keys`, one after the other.
    ///
    /// They are taken in their order as `Ord` has it, and each once, however often it is among them: so callers that
    /// ask for the same keys in different orders don't wait for each other in a circle. That holds as long as a caller
    /// asks for all keys in one call; one who holds a turn already may still wait for someone who waits for it.
    ///
    /// While it waits for a key, it holds those before it. `max_wait` counts for each key anew.
    ///
    /// ```
    /// # use onelane::KeyedGuard;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), onelane::AcquireError> {
    /// static ACCOUNTS: KeyedGuard<u64> = KeyedGuard::new("account");
    ///
    /// let (from, to) = (7, 3);
    /// let _both = ACCOUNTS.acquire_all([from, to]).await?;
    /// # assert_eq!(ACCOUNTS.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue, and the turns that it has.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), for the first key that is refused. The turns before it are given back.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_all(&self, keys: impl IntoIterator<Item = K>) -> AcquireAll<'_, K>
    where
        K: Ord,
    {
        AcquireAll::new(self, keys)
    }

    /// Waits for a turn of `key` and runs `future` in it.
    ///
    /// As [`EndpointGuard::run`](crate::EndpointGuard::run): inside, the same key's turn is refused with
    /// [`WouldDeadlock`](AcquireError::WouldDeadlock) rather than waited for.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the place in the queue, or drops `future` and then gives the turn back.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire), before `future` has started. What `future` returns is passed through.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire), and if `future` does.
    pub fn run<F: Future>(&self, key: K, future: F) -> RunKeyed<'_, K, F> {
        RunKeyed::new(self, key, future)
    }

    /// Waits for a turn of `key` and runs `future` in it to its end, though the caller may go away meanwhile.
    ///
    /// As [`EndpointGuard::run_to_completion`](crate::EndpointGuard::run_to_completion). For a guard in an `Arc` there is
    /// [`run_to_completion_owned`](Self::run_to_completion_owned).
    ///
    /// # Cancel safety
    ///
    /// As [`EndpointGuard::run_to_completion`](crate::EndpointGuard::run_to_completion); errors and panics too.
    pub fn run_to_completion<F>(&'static self, key: K, future: F) -> RunKeyedToCompletion<K, F>
    where
        K: Send,
        F: Future + Send + 'static,
    {
        RunKeyedToCompletion::new(SharedKeyedGuard::from(self), key, future)
    }

    /// Waits for a turn of `key` and runs `future` in it to its end, though the caller may go away meanwhile.
    ///
    /// As [`run_to_completion`](Self::run_to_completion), for a guard in an `Arc`.
    ///
    /// # Cancel safety
    ///
    /// As [`run_to_completion`](Self::run_to_completion); errors and panics too.
    pub fn run_to_completion_owned<F>(self: Arc<Self>, key: K, future: F) -> RunKeyedToCompletion<K, F>
    where
        K: Send + 'static,
        F: Future + Send + 'static,
    {
        RunKeyedToCompletion::new(SharedKeyedGuard::from(self), key, future)
    }

    /// Lets nobody in any more, whatever the key: callers that wait or come are refused with
    /// [`Closed`](AcquireError::Closed).
    ///
    /// Holders finish. Closing twice is the same as closing once; a guard does not open again.
    pub fn close(&self) {
        let waited: Vec<_> = self.keys().iter().flat_map(|shard| shard.close(self.terms())).collect();
        self.announce_if_drained();
        wake_all(waited);
    }

    /// Waits until the guard is closed and the last permit has come back, as
    /// [`EndpointGuard::drained`](crate::EndpointGuard::drained).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    ///
    /// # Panics
    ///
    /// If it has to wait, and the guard has a `grant_timeout`, outside of a tokio runtime with a timer.
    pub async fn drained(&self) {
        self.core.drained(|| self.is_drained(), |now| self.expire_all(now)).await;
    }

    /// What the guard has done so far and does right now, over all keys. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> GuardStats {
        let mut all = SemaphoreSnapshot { held: 0, waiting: 0, granted: 0, is_closed: false };
        let (mut queued, mut cancelled) = (0, 0);
        for shard in self.shards() {
            let lanes = shard.snapshot();
            all.held += lanes.held;
            all.waiting += lanes.waiting;
            all.granted += lanes.granted;
            all.is_closed |= lanes.is_closed;
            queued += shard.tally().queued.value();
            cancelled += shard.tally().cancelled.value();
        }
        self.core.stats(self.rules.permits, all, queued, cancelled)
    }

    /// How many keys are in use: someone holds a permit of them, waits for one, or has not been polled since its wait
    /// ended. Takes no lock, and reads one shard after the other: while callers come and go it is a sum of moments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards().map(Shard::len).sum()
    }

    /// Whether no key is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn keys(&self) -> &Sharded<Shard<K>> {
        self.keys.get_or_init(|| Sharded::new(Shard::new))
    }

    #[inline]
    pub(super) fn terms(&self) -> Terms<'_> {
        Terms { rules: &self.rules, limit: self.limit.as_ref() }
    }

    /// Those there are: none before the first call.
    fn shards(&self) -> impl Iterator<Item = &Shard<K>> {
        self.keys.get().into_iter().flat_map(Sharded::iter)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shards().next().is_some_and(Shard::is_closed)
    }

    pub(super) fn is_drained(&self) -> bool {
        // Before the first call nobody has closed it.
        self.keys.get().is_some_and(|keys| keys.iter().all(Shard::is_drained))
    }

    fn expire_all(&self, now: Instant) {
        let Some(limit) = self.core.expiry(now) else { return };
        let turns = self.shards().map(|shard| shard.expire_all(self.terms(), limit, now)).sum();
        if turns > 0 {
            self.core.count_expired(turns);
            self.announce_if_drained();
        }
    }

    fn announce_if_drained(&self) {
        if self.is_drained() {
            self.core.drained.notify_waiters();
        }
    }
}

impl<K> HasCore for KeyedGuard<K> {
    fn core(&self) -> &Core {
        &self.core
    }
}

impl<K: Hash + Eq> fmt::Debug for KeyedGuard<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("KeyedGuard")
            .field("name", &stats.name)
            .field("permits", &stats.permits)
            .field("keys", &self.len())
            .field("held", &stats.held)
            .field("waiting", &stats.waiting)
            .field("closed", &stats.closed)
            .finish_non_exhaustive()
    }
}
