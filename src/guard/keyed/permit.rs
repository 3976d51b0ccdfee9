//! [`KeyedPermit`] and [`OwnedKeyedPermit`], proof that its holder has a turn of a key.

use std::fmt;
use std::hash::Hash;

use super::gate::KeyGate;
use super::keyed_guard::KeyedGuard;
use crate::guard::permit::Held;
use crate::guard::shared::SharedKeyedGuard;

/// A turn of one key. Dropping it lets the key's next caller in, also in a panic.
///
/// Bind it to a name, such as `_permit`: `let _ = guard.acquire(key).await?;` ends the turn where it began.
#[must_use = "the turn is over as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct KeyedPermit<'a, K: Hash + Eq>(pub(super) Held<KeyGate<K, &'a KeyedGuard<K>>>);

/// A turn of one key that outlives the caller: it owns its share of the guard, so it can move to another task or thread.
///
/// Dropping it lets the key's next caller in, also in a panic.
#[must_use = "the turn is over as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct OwnedKeyedPermit<K: Hash + Eq + 'static>(pub(super) Held<KeyGate<K, SharedKeyedGuard<K>>>);

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
