//! [`AcquireKey`] and [`AcquireKeyOwned`], the futures that wait for a permit of one key.

use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::keyed_guard::{KeyedGuard, SharedKeyedGuard};
use super::permit::{KeyedPermit, OwnedKeyedPermit};
use super::source::KeyedSource;
use crate::guard::acquire::AcquireFuture;
use crate::guard::error::AcquireError;
use crate::guard::permit::HeldPermit;

/// Waits for a permit of one key. Created by [`KeyedGuard::acquire`].
#[must_use = "futures do nothing unless polled"]
pub struct AcquireKey<'a, K: Hash + Eq>(AcquireFuture<KeyedSource<K, &'a KeyedGuard<K>>>);

/// Waits for a permit of one key that may outlive the caller. Created by [`KeyedGuard::acquire_owned`].
#[must_use = "futures do nothing unless polled"]
pub struct AcquireKeyOwned<K: Hash + Eq + 'static>(AcquireFuture<KeyedSource<K, SharedKeyedGuard<K>>>);

impl<'a, K: Hash + Eq> AcquireKey<'a, K> {
    pub(super) fn new(guard: &'a KeyedGuard<K>, key: K) -> Self {
        Self(AcquireFuture::new(KeyedSource::new(guard, key)))
    }
}

impl<'a, K: Hash + Eq> Future for AcquireKey<'a, K> {
    type Output = Result<KeyedPermit<'a, K>, AcquireError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_ok(KeyedPermit)
    }
}

impl<K: Hash + Eq> Future for AcquireKeyOwned<K> {
    type Output = Result<OwnedKeyedPermit<K>, AcquireError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_ok(OwnedKeyedPermit)
    }
}

impl<K: Hash + Eq> SharedKeyedGuard<K> {
    /// Waits for a permit of `key`, as [`KeyedGuard::acquire`] does.
    ///
    /// # Cancel safety
    ///
    /// See [`KeyedGuard::acquire`], which also describes errors and panics.
    pub fn acquire_owned(self, key: K) -> AcquireKeyOwned<K> {
        AcquireKeyOwned(AcquireFuture::new(KeyedSource::new(self, key)))
    }

    /// Acquires a permit of `key` if one is available and no caller is waiting for it, as [`KeyedGuard::try_acquire`]
    /// does.
    ///
    /// # Errors
    ///
    /// See [`KeyedGuard::try_acquire`].
    pub fn try_acquire_owned(self, key: K) -> Result<OwnedKeyedPermit<K>, AcquireError> {
        HeldPermit::try_acquire(KeyedSource::new(self, key)).map(OwnedKeyedPermit)
    }
}

// Nothing in the futures is structurally pinned: the timer is boxed.
impl<K: Hash + Eq> Unpin for AcquireKey<'_, K> {}
impl<K: Hash + Eq> Unpin for AcquireKeyOwned<K> {}

impl<K: Hash + Eq> fmt::Debug for AcquireKey<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("AcquireKey", f)
    }
}

impl<K: Hash + Eq> fmt::Debug for AcquireKeyOwned<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("AcquireKeyOwned", f)
    }
}
