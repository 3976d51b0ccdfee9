//! [`KeyedPermit`] and [`OwnedKeyedPermit`], the right to run for one key.

use std::hash::Hash;
use std::ops::Deref;

use super::keyed_guard::{KeyedGuard, SharedKeyedGuard};
use super::source::KeyedSource;
use crate::guard::permit::HeldPermit;

/// The right to run for one key. Dropping it lets the key's next caller run, even during a panic.
///
/// Bind it to a name, such as `_permit`: `let _ = guard.acquire(key).await?;` releases the permit at once.
pub type KeyedPermit<'a, K> = HeldPermit<KeyedSource<K, &'a KeyedGuard<K>>>;

/// An owned [`KeyedPermit`]. It shares ownership of the guard, so it can move to another task or thread.
///
/// Dropping it lets the key's next caller run, even during a panic.
pub type OwnedKeyedPermit<K> = HeldPermit<KeyedSource<K, SharedKeyedGuard<K>>>;

impl<K, G> HeldPermit<KeyedSource<K, G>>
where
    K: Hash + Eq + Clone,
    G: Deref<Target = KeyedGuard<K>>,
{
    /// Returns the key.
    ///
    /// `K::clone` runs with a lock of the guard held, so it must not use the guard.
    #[must_use]
    pub fn key(&self) -> K {
        self.source().permit_key()
    }
}
