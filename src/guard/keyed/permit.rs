//! [`KeyedPermit`] and [`OwnedKeyedPermit`], the right to run for one key.

use std::fmt;
use std::hash::Hash;

use super::keyed_guard::{KeyedGuard, SharedKeyedGuard};
use super::source::KeyedSource;
use crate::guard::permit::HeldPermit;

/// The right to run for one key. Dropping it lets the key's next caller run, even during a panic.
///
/// Bind it to a name, such as `_permit`: `let _ = guard.acquire(key).await?;` releases the permit at once.
#[must_use = "the permit is released as soon as it is dropped: bind it to `_permit`, not to `_`"]
pub struct KeyedPermit<'a, K: Hash + Eq>(pub(super) HeldPermit<KeyedSource<K, &'a KeyedGuard<K>>>);

/// An owned [`KeyedPermit`]. It shares ownership of the guard, so it can move to another task or thread.
///
/// Dropping it lets the key's next caller run, even during a panic.
#[must_use = "the permit is released as soon as it is dropped: bind it to `_permit`, not to `_`"]
pub struct OwnedKeyedPermit<K: Hash + Eq + 'static>(pub(super) HeldPermit<KeyedSource<K, SharedKeyedGuard<K>>>);

impl<K: Hash + Eq> fmt::Debug for KeyedPermit<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("KeyedPermit", f)
    }
}

impl<K: Hash + Eq> fmt::Debug for OwnedKeyedPermit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("OwnedKeyedPermit", f)
    }
}
