//! [`LockBackend`], a store that gives a lock to one process at a time.

use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::error::BackendError;
use crate::random;

/// The future of a [`LockBackend`]'s method.
pub type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// A store that gives each lock to one process at a time: Redis, PostgreSQL, the files of a host, or one of your own.
///
/// Implement this trait for your own store, and call [`conformance::check`](super::conformance::check) in a test. All
/// methods are called within a tokio runtime that has I/O and time enabled, and whose thread no handler can block.
/// Spawn the tasks that drive connections on this runtime, in [`connect`](Self::connect).
///
/// # Cancel safety
///
/// The crate never drops the future of an attempt, of a renewal or of a release that has been polled, except when the
/// domain disconnects. If a caller leaves during an attempt, the attempt is completed without it, and the lock is
/// released.
pub trait LockBackend: fmt::Debug + Send + Sync + 'static {
    /// Connects to the store, and checks that it can keep locks. Called once, before all other methods.
    ///
    /// # Errors
    ///
    /// Returns an error that says what to do if the store can't be reached or is not configured correctly.
    fn connect<'a>(&'a self, domain: &'a str) -> BackendFuture<'a, ()>;

    /// Checks that the store answers. Called about once a second while the domain is connected as a service.
    fn check(&self) -> BackendFuture<'_, ()>;

    /// Returns how long the store keeps a lock that is not renewed. `None` if a lock ends with the process that holds
    /// it, so that no lease is renewed.
    ///
    /// On Linux, with any of the features `host`, `redis` and `tokio-postgres`, the time during which the machine is
    /// suspended counts as well.
    fn lease(&self) -> Option<Duration>;

    /// Takes the lock if no other owner has it.
    ///
    /// The store reserves `tokens` fencing tokens, all larger than every token that it has reserved for a lock of the
    /// same [guard](LockName::guard) before, and returns the first one.
    ///
    /// # Errors
    ///
    /// After an error, it is not known whether the owner has the lock. The crate then calls [`release`](Self::release).
    fn try_acquire<'a>(&'a self, lock: &'a LockName, owner: Owner, tokens: u32) -> BackendFuture<'a, Attempt>;

    /// Renews leases, all in one round trip if the store can do that. Returns for each lease whether it is still held.
    ///
    /// # Errors
    ///
    /// After an error, the renewal is repeated until the leases have expired.
    fn renew<'a>(&'a self, leases: &'a [LeaseId]) -> BackendFuture<'a, Vec<bool>>;

    /// Releases the lock if the lease still exists. Releasing a lock twice has no effect.
    ///
    /// # Errors
    ///
    /// After an error, the lock becomes free when the lease expires.
    fn release<'a>(&'a self, lease: &'a LeaseId) -> BackendFuture<'a, Released>;

    /// Completes when the lock may have been released since the first poll of the future. The future may complete too
    /// early, and may miss a release, because callers also check from time to time.
    ///
    /// While the future exists, this process counts as [waiting](Released::waiting) when another one releases the lock,
    /// as far as the store can know that.
    fn released<'a>(&'a self, lock: &'a LockName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        let _ = lock;
        Box::pin(pending())
    }
}

/// The name of a lock: a guard, and a key of a keyed guard.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LockName {
    guard: &'static str,
    key: Option<Arc<str>>,
}

impl LockName {
    /// Returns the name of the lock of a guard, or of one of its keys.
    pub fn new(guard: &'static str, key: Option<&str>) -> Self {
        Self { guard, key: key.map(Arc::from) }
    }

    /// Returns the name of the guard. Fencing tokens are counted for each guard.
    #[must_use]
    pub fn guard(&self) -> &'static str {
        self.guard
    }

    /// Returns the key. `None` for a guard without keys.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

/// Identifies one holder of a lock. No two acquisitions in the world have the same owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub(super) u128);

impl Owner {
    /// Returns a random owner, for tests of a backend.
    #[must_use]
    pub fn random() -> Self {
        Self(u128::from(random::bits()) << 64 | u128::from(random::bits()))
    }
}

/// Writes the owner as 32 hexadecimal digits.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Identifies a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseId {
    /// The lock.
    pub lock: LockName,
    /// The owner that acquired the lock.
    pub owner: Owner,
    /// The first fencing token of the lease. `None` if it is not known, because the attempt ended with an error.
    pub fence: Option<u64>,
}

impl LeaseId {
    /// Identifies the lease that an attempt has acquired.
    #[must_use]
    pub fn new(lock: LockName, owner: Owner, fence: Option<u64>) -> Self {
        Self { lock, owner, fence }
    }
}

/// The result of an attempt to take a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The owner holds the lock.
    Acquired {
        /// The first of the reserved fencing tokens.
        fence: u64,
    },
    /// Another owner holds the lock.
    Held {
        /// When the lease of the other owner expires, unless it is renewed. `None` if it is not known.
        expires_in: Option<Duration>,
    },
}

/// The result of a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// How many other processes wait for the lock. The process that has released the lock leaves this many releases to
    /// other processes before it takes the lock again, so that processes take turns. A store that can't count the
    /// processes reports one if any process waits.
    pub waiting: usize,
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are users' data, which logs must not contain.
        f.debug_struct("LockName").field("guard", &self.guard).field("has_key", &self.key.is_some()).finish()
    }
}
