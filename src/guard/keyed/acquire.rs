//! [`AcquireKey`] and [`AcquireKeyOwned`], the futures that wait for a permit of one key.

use std::hash::Hash;

use super::keyed_guard::{KeyedGuard, SharedKeyedGuard};
use super::permit::OwnedKeyedPermit;
use super::run::RunKeyedToCompletion;
use super::source::KeyedSource;
use crate::guard::acquire::AcquireFuture;
use crate::guard::blocking;
use crate::guard::error::AcquireError;
use crate::guard::permit::HeldPermit;

/// Waits for a permit of one key. Created by [`KeyedGuard::acquire`].
pub type AcquireKey<'a, K> = AcquireFuture<KeyedSource<K, &'a KeyedGuard<K>>>;

/// Waits for a permit of one key that may outlive the caller. Created by [`KeyedGuard::acquire_owned`].
pub type AcquireKeyOwned<K> = AcquireFuture<KeyedSource<K, SharedKeyedGuard<K>>>;

impl<K: Hash + Eq> SharedKeyedGuard<K> {
    /// Waits for a permit of `key`, as [`KeyedGuard::acquire`] does.
    ///
    /// # Cancel safety
    ///
    /// See [`KeyedGuard::acquire`], which also describes errors and panics.
    pub fn acquire_owned(self, key: K) -> AcquireKeyOwned<K> {
        AcquireFuture::new(KeyedSource::new(self, key))
    }

    /// Acquires a permit of `key` if one is available and no caller is waiting for it, as [`KeyedGuard::try_acquire`]
    /// does.
    ///
    /// # Errors
    ///
    /// See [`KeyedGuard::try_acquire`].
    pub fn try_acquire_owned(self, key: K) -> Result<OwnedKeyedPermit<K>, AcquireError> {
        HeldPermit::try_acquire(KeyedSource::new(self, key))
    }

    /// Waits for a permit of `key` on the current thread, as [`KeyedGuard::acquire_blocking`] does.
    ///
    /// # Errors
    ///
    /// See [`KeyedGuard::acquire_blocking`].
    pub fn acquire_owned_blocking(self, key: K) -> Result<OwnedKeyedPermit<K>, AcquireError> {
        blocking::acquire(KeyedSource::new(self, key))
    }

    /// Waits for a permit of `key` and runs `future` to completion while holding it, as
    /// [`KeyedGuard::run_to_completion`] does.
    ///
    /// # Cancel safety
    ///
    /// See [`KeyedGuard::run_to_completion`], which also describes errors and panics.
    pub fn run_to_completion<F>(self, key: K, future: F) -> RunKeyedToCompletion<K, F>
    where
        K: Send,
        F: Future + Send + 'static,
    {
        RunKeyedToCompletion::new(KeyedSource::new(self, key), future)
    }
}
