//! [`AcquireKey`] and [`AcquireKeyOwned`], the futures that wait for a turn of one key.

use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::gate::KeyGate;
use super::keyed_guard::KeyedGuard;
use super::permit::{KeyedPermit, OwnedKeyedPermit};
use crate::guard::acquire::Acquiring;
use crate::guard::core::Gate;
use crate::guard::error::AcquireError;
use crate::guard::permit::Held;
use crate::guard::shared::SharedKeyedGuard;

/// Waits for a turn of one key. Made by [`KeyedGuard::acquire`].
#[must_use = "futures do nothing unless polled"]
pub struct AcquireKey<'a, K: Hash + Eq>(pub(super) Acquiring<KeyGate<K, &'a KeyedGuard<K>>>);

/// Waits for a turn of one key whose permit may outlive the caller. Made by [`KeyedGuard::acquire_owned`].
#[must_use = "futures do nothing unless polled"]
pub struct AcquireKeyOwned<K: Hash + Eq + 'static>(Acquiring<KeyGate<K, SharedKeyedGuard<K>>>);

impl<'a, K: Hash + Eq> AcquireKey<'a, K> {
    pub(super) fn new(guard: &'a KeyedGuard<K>, key: K) -> Self {
        Self(Acquiring::new(KeyGate::new(guard, key)))
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
    /// Waits for a turn of `key`, as [`KeyedGuard::acquire`] does.
    ///
    /// # Cancel safety
    ///
    /// As [`KeyedGuard::acquire`]; errors and panics too.
    pub fn acquire_owned(self, key: K) -> AcquireKeyOwned<K> {
        AcquireKeyOwned(Acquiring::new(KeyGate::new(self, key)))
    }

    /// Takes a turn of `key` if one is free and nobody waits for it, as [`KeyedGuard::try_acquire`] does.
    ///
    /// # Errors
    ///
    /// As [`KeyedGuard::try_acquire`].
    pub fn try_acquire_owned(self, key: K) -> Result<OwnedKeyedPermit<K>, AcquireError> {
        let mut gate = KeyGate::new(self, key);
        gate.enter_now()?;
        Ok(OwnedKeyedPermit(Held::new(gate)))
    }
}

// Nothing in them is polled in place: the timer has a box of its own.
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
