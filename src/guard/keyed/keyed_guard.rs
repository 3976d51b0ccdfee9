//! [`KeyedGuard`], which admits a limited number of callers of each key at once.

use std::borrow::Cow;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::acquire::{AcquireKey, AcquireKeyOwned};
use super::acquire_all::AcquireAll;
use super::key_entry::{KeyLimit, ShardConfig};
use super::permit::{KeyedPermit, OwnedKeyedPermit};
use super::run::{RunKeyed, RunKeyedToCompletion};
use super::shard::Shard;
use super::source::KeyedSource;
use crate::backend::{LockDomain, LockName};
use crate::debug::impl_debug;
use crate::guard::blocking;
use crate::guard::builder::KeyedGuardBuilder;
use crate::guard::core::{GuardCore, HasGuardCore, WaitLimits};
use crate::guard::error::AcquireError;
use crate::guard::key_map::Sharded;
use crate::guard::permit::HeldPermit;
use crate::guard::stats::GuardStats;
use crate::name::intern;
use crate::semaphore::{SemaphoreConfig, SemaphoreSnapshot, WaitTotals};
use crate::shared::{Shareable, Shared};
use crate::sync::const_unless_loom;
use crate::wake::wake_all;

/// Admits one caller at a time, or N, for each key: a user, a tenant, a document.
///
/// Each key works like an [`EndpointGuard`](crate::EndpointGuard): the same order, the same queue, the same errors.
/// Callers of different keys do not wait for each other. A keyed guard works within one process, or, if it is
/// [distributed](crate::guard::GuardBuilder::distributed), over all processes of a host or of a cluster.
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
/// assert!(PER_USER.is_empty(), "nothing remains of a key that is not in use");
/// # Ok(())
/// # }
/// ```
///
/// # Keys
///
/// A key exists from its first caller to its last, whether the last caller finishes, is cancelled in the queue, or is
/// dropped as a permit is granted to it. As soon as no caller holds a permit of the key or waits for one, the key's
/// memory is available for other keys. A shard of the map frees its memory when none of its keys is in use. (The map
/// itself, a few kilobytes per processor, is created at the first call.)
///
/// Clients that choose keys cannot make them collide: keys are hashed as std's `HashMap` hashes them. Such clients
/// cannot claim more keys at once than [`max_keys`](KeyedGuardBuilder::max_keys), if you set it.
///
/// `Eq` and `Hash` of the key must agree with each other and must not call the guard: keys are compared while a lock is
/// held. The key's `Drop` may call the guard, but must not panic.
///
/// # Panics and cancellation
///
/// See [`EndpointGuard`](crate::EndpointGuard#panics-and-cancellation).
///
/// # When not to use it
///
/// For a handful of keys that are known beforehand, one `EndpointGuard` each is simpler. If callers can share one
/// *result* instead of running one after the other, use a [`SingleFlight`](crate::SingleFlight).
pub struct KeyedGuard<K> {
    pub(super) core: GuardCore,
    pub(super) semaphore_config: SemaphoreConfig,
    key_limit: Option<KeyLimit>,
    /// Names a key for other processes. `None` if the guard is not distributed.
    key_name: Option<KeyName<K>>,
    /// Created at the first call.
    keys: OnceLock<Sharded<Shard<K>>>,
}

/// Names a key for other processes.
pub(in crate::guard) type KeyName<K> = fn(&K) -> String;

/// A [`KeyedGuard`] that outlives its users.
pub type SharedKeyedGuard<K> = Shared<KeyedGuard<K>>;

impl<K> KeyedGuard<K> {
    const_unless_loom! {
        /// Creates a guard for one caller of each key at a time, in order, with unbounded queues.
        ///
        /// `name` identifies the guard in [`stats`](Self::stats) and in logs. It need not be unique.
        #[must_use]
        pub fn new(name: &'static str) -> Self {
            Self::builder(name).build()
        }
    }

    /// Returns a builder for a guard with other settings.
    pub const fn builder(name: &'static str) -> KeyedGuardBuilder<K> {
        KeyedGuardBuilder::new(name)
    }

    /// Returns a builder with a name that is not known at compile time, such as one from a configuration file.
    ///
    /// Each distinct name is kept until the process exits, so name routes, not users.
    pub fn builder_named(name: impl Into<Cow<'static, str>>) -> KeyedGuardBuilder<K> {
        Self::builder(intern(name.into()))
    }

    const_unless_loom! {
        pub(in crate::guard) fn from_parts(
            name: &'static str,
            semaphore_config: SemaphoreConfig,
            limits: WaitLimits,
            key_limit: Option<KeyLimit>,
            domain: Option<(&'static LockDomain, KeyName<K>)>,
        ) -> Self {
            let (domain, key_name) = match domain {
                Some((domain, key_name)) => (Some(domain), Some(key_name)),
                None => (None, None),
            };
            let core = GuardCore::new(name, limits, domain);
            Self { core, semaphore_config, key_limit, key_name, keys: OnceLock::new() }
        }
    }

    /// Returns the guard's name.
    #[must_use]
    pub const fn name(&self) -> &str {
        self.core.name
    }

    /// Returns the name of a key for other processes, if the guard is distributed.
    pub(super) fn lock_name(&self, key: &K) -> Option<Box<LockName>> {
        self.key_name.map(|name| Box::new(LockName::new(self.core.name, Some(&name(key)))))
    }
}

impl<K: Hash + Eq> KeyedGuard<K> {
    /// Waits in the queue of `key` for a permit. Bind the permit to a name, not to `_`, which releases it at once.
    ///
    /// See [`EndpointGuard::acquire`](crate::EndpointGuard::acquire).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes the caller from the queue. A permit that had already been granted goes to the next
    /// caller of the key. If there is no next caller, the key is removed.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`EndpointGuard::acquire`](crate::EndpointGuard::acquire), and
    /// [`TooManyKeys`](crate::guard::AcquireErrorKind::TooManyKeys), at once, if `key` would exceed `max_keys`.
    ///
    /// # Panics
    ///
    /// See [`EndpointGuard::acquire`](crate::EndpointGuard::acquire).
    pub fn acquire(&self, key: K) -> AcquireKey<'_, K> {
        AcquireKey::new(KeyedSource::new(self, key))
    }

    /// Waits in the queue of `key` for a permit that can move to another task.
    ///
    /// # Cancel safety
    ///
    /// See [`acquire`](Self::acquire), which also describes errors and panics.
    pub fn acquire_owned(self: Arc<Self>, key: K) -> AcquireKeyOwned<K> {
        SharedKeyedGuard::from(self).acquire_owned(key)
    }

    /// Acquires a permit of `key` if one is available and no caller is waiting for it.
    ///
    /// # Errors
    ///
    /// Returns [`Busy`](crate::guard::AcquireErrorKind::Busy),
    /// [`TooManyKeys`](crate::guard::AcquireErrorKind::TooManyKeys) or
    /// [`Closed`](crate::guard::AcquireErrorKind::Closed), at once.
    #[inline]
    pub fn try_acquire(&self, key: K) -> Result<KeyedPermit<'_, K>, AcquireError> {
        HeldPermit::try_acquire(KeyedSource::new(self, key))
    }

    /// Acquires a permit of `key` that can move to another task, if one is available and no caller is waiting for it.
    ///
    /// # Errors
    ///
    /// See [`try_acquire`](Self::try_acquire).
    pub fn try_acquire_owned(self: Arc<Self>, key: K) -> Result<OwnedKeyedPermit<K>, AcquireError> {
        SharedKeyedGuard::from(self).try_acquire_owned(key)
    }

    /// Waits for a permit of `key` on the current thread, in the same queue as the async callers.
    ///
    /// See [`EndpointGuard::acquire_blocking`](crate::EndpointGuard::acquire_blocking).
    ///
    /// # Errors
    ///
    /// Returns the errors of [`acquire`](Self::acquire), and
    /// [`BlockingInAsync`](crate::guard::AcquireErrorKind::BlockingInAsync) on a thread that runs tasks of a tokio
    /// runtime, even if a permit is available.
    pub fn acquire_blocking(&self, key: K) -> Result<KeyedPermit<'_, K>, AcquireError> {
        blocking::acquire(KeyedSource::new(self, key))
    }

    /// Waits on the current thread for a permit of `key` that can move to another task or thread.
    ///
    /// # Errors
    ///
    /// See [`acquire_blocking`](Self::acquire_blocking).
    pub fn acquire_owned_blocking(self: Arc<Self>, key: K) -> Result<OwnedKeyedPermit<K>, AcquireError> {
        SharedKeyedGuard::from(self).acquire_owned_blocking(key)
    }

    /// Waits for a permit of each of `keys`, one after the other.
    ///
    /// The permits are acquired in the `Ord` order of the keys, one for each distinct key. So callers that ask for the
    /// same keys in different orders do not deadlock. That holds only if a caller asks for all its keys in one call: a
    /// caller that already holds a permit may still wait for a caller that waits for that permit.
    ///
    /// While the future waits for a key, it holds the permits of the keys before it. `max_wait` limits the waits for
    /// all keys together.
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
    /// Dropping the future removes the caller from the queue and releases the permits that the future holds.
    ///
    /// # Errors
    ///
    /// See [`acquire`](Self::acquire). Fails at the first key that is refused, and releases the permits of the keys
    /// before it.
    ///
    /// # Panics
    ///
    /// See [`acquire`](Self::acquire).
    pub fn acquire_all(&self, keys: impl IntoIterator<Item = K>) -> AcquireAll<'_, K>
    where
        K: Ord,
    {
        AcquireAll::new(self, keys)
    }

    /// Waits for a permit of `key` and runs `future` while holding it.
    ///
    /// See [`EndpointGuard::run`](crate::EndpointGuard::run): code in `future` that acquires the same key is refused
    /// with [`WouldDeadlock`](crate::guard::AcquireErrorKind::WouldDeadlock) instead of waiting forever.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future removes the caller from the queue, or drops `future` and then releases the permit.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`acquire`](Self::acquire), before `future` has started. The output of `future` is passed
    /// through.
    ///
    /// # Panics
    ///
    /// See [`acquire`](Self::acquire). A panic of `future` is passed through.
    pub fn run<F: Future>(&self, key: K, future: F) -> RunKeyed<'_, K, F> {
        RunKeyed::new(KeyedSource::new(self, key), future)
    }

    /// Waits for a permit of `key` and runs `future` to completion while holding it, even if the caller is cancelled.
    ///
    /// See [`EndpointGuard::run_to_completion`](crate::EndpointGuard::run_to_completion). For a guard in an `Arc`, use
    /// [`run_to_completion_owned`](Self::run_to_completion_owned).
    ///
    /// # Cancel safety
    ///
    /// See [`EndpointGuard::run_to_completion`](crate::EndpointGuard::run_to_completion), which also describes errors
    /// and panics.
    pub fn run_to_completion<F>(&'static self, key: K, future: F) -> RunKeyedToCompletion<K, F>
    where
        K: Send,
        F: Future + Send + 'static,
    {
        SharedKeyedGuard::from(self).run_to_completion(key, future)
    }

    /// Waits for a permit of `key` and runs `future` to completion while holding it, even if the caller is cancelled.
    ///
    /// Does the same as [`run_to_completion`](Self::run_to_completion), for a guard in an `Arc`.
    ///
    /// # Cancel safety
    ///
    /// See [`run_to_completion`](Self::run_to_completion), which also describes errors and panics.
    pub fn run_to_completion_owned<F>(self: Arc<Self>, key: K, future: F) -> RunKeyedToCompletion<K, F>
    where
        K: Send + 'static,
        F: Future + Send + 'static,
    {
        SharedKeyedGuard::from(self).run_to_completion(key, future)
    }

    /// Closes the guard for all keys: waiting and new callers are refused with
    /// [`Closed`](crate::guard::AcquireErrorKind::Closed).
    ///
    /// Holders keep their permits. Closing a closed guard has no effect; a guard cannot be reopened.
    pub fn close(&self) {
        let wakers: Vec<_> = self.keys().iter().flat_map(|shard| shard.close(self.shard_config())).collect();
        self.notify_if_drained();
        wake_all(wakers);
    }

    /// Waits until the guard is closed and the last permit has been released.
    ///
    /// See [`EndpointGuard::drained`](crate::EndpointGuard::drained).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime with a timer if it has to wait and the guard has a `grant_timeout`.
    pub async fn drained(&self) {
        self.core.drained(|| self.is_drained(), |now| self.expire_all(now)).await;
    }

    /// Returns a snapshot of the guard's state and counters, summed over all keys. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> GuardStats {
        let mut all = SemaphoreSnapshot { held: 0, waiting: 0, granted: 0, is_closed: false };
        let mut waits = WaitTotals::default();
        for shard in self.shards() {
            let snapshot = shard.snapshot();
            all.held += snapshot.held;
            all.waiting += snapshot.waiting;
            all.granted += snapshot.granted;
            all.is_closed |= snapshot.is_closed;
            waits = waits + shard.wait_counters().totals();
        }
        self.core.stats(self.semaphore_config.permits, all, waits)
    }

    /// Returns the number of keys in use. A key is in use while a caller holds a permit of it, waits for one, or has
    /// not been polled since its wait ended.
    ///
    /// Takes no lock. The shards are read one after the other, so the number may not be exact while the guard is in
    /// use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards().map(Shard::len).sum()
    }

    /// Returns `true` if no key is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn keys(&self) -> &Sharded<Shard<K>> {
        self.keys.get_or_init(|| Sharded::new(Shard::new))
    }

    #[inline]
    pub(super) fn shard_config(&self) -> ShardConfig<'_> {
        ShardConfig { semaphore: &self.semaphore_config, key_limit: self.key_limit.as_ref() }
    }

    /// Returns the existing shards: none before the first call.
    fn shards(&self) -> impl Iterator<Item = &Shard<K>> {
        self.keys.get().into_iter().flat_map(Sharded::iter)
    }

    /// Returns `true` if the guard was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shards().next().is_some_and(Shard::is_closed)
    }

    pub(super) fn is_drained(&self) -> bool {
        // Before the first call the guard is not closed.
        self.keys.get().is_some_and(|keys| keys.iter().all(Shard::is_drained))
    }

    fn expire_all(&self, now: Instant) {
        let Some(limit) = self.core.expiry_limit(now) else { return };
        let grants = self.shards().map(|shard| shard.expire_all_grants(self.shard_config(), limit, now)).sum();
        if grants > 0 {
            self.core.count_expired(None, grants);
            if let Some(domain) = self.core.domain {
                domain.clear_all(self.core.name);
            }
            self.notify_if_drained();
        }
    }

    fn notify_if_drained(&self) {
        if self.is_drained() {
            self.core.notify_drained();
        }
    }
}

impl<K> Shareable for KeyedGuard<K> {}

impl<K> HasGuardCore for KeyedGuard<K> {
    fn core(&self) -> &GuardCore {
        &self.core
    }
}

impl_debug!([K: Hash + Eq] KeyedGuard<K> |this| {
    name: this.core.name, permits: this.stats().permits, keys: this.len(), held: this.stats().held,
    waiting: this.stats().waiting, closed: this.is_closed(), ..
});
