//! [`KeyedPermit`] and [`OwnedKeyedPermit`], the right to run for one key.

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
