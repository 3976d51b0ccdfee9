//! [`Permit`] and [`OwnedPermit`], proof that its holder is inside.

use std::fmt;
use std::ops::Deref;
use std::thread;

use tokio::time::Instant;

use super::EndpointGuard;
use super::shared::SharedGuard;

/// A turn inside a guard. Dropping it lets the next caller in.
///
/// Bind it to a name, such as `_permit`: `let _ = guard.acquire().await?;` ends the turn where it began.
///
/// A panic that drops it does the same: nothing is poisoned, as with tokio's `Mutex`.
#[must_use = "the turn is over as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct Permit<'a>(pub(super) Held<&'a EndpointGuard>);

/// A turn inside a guard that outlives the caller: it owns its share of the guard, so it can move to another task or
/// thread.
///
/// Dropping it lets the next caller in, also in a panic.
#[must_use = "the turn is over as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct OwnedPermit(pub(super) Held<SharedGuard>);

/// One permit of `G`'s guard.
pub(crate) struct Held<G: Deref<Target = EndpointGuard>> {
    guard: G,
    /// Set if this holder is the one being timed.
    timed_since: Option<Instant>,
}

impl<G: Deref<Target = EndpointGuard>> Held<G> {
    /// Takes charge of a permit that the lane has just given.
    #[inline]
    pub(super) fn new(guard: G) -> Self {
        let timed_since = guard.hold_time.start();
        Self { guard, timed_since }
    }

    pub(crate) fn guard(&self) -> &G {
        &self.guard
    }
}

impl OwnedPermit {
    pub(crate) fn guard(&self) -> &SharedGuard {
        self.0.guard()
    }
}

impl<G: Deref<Target = EndpointGuard>> Drop for Held<G> {
    #[inline]
    fn drop(&mut self) {
        if thread::panicking() {
            self.guard.counters.panicked.add(1);
        }
        if let Some(since) = self.timed_since {
            self.guard.hold_time.finish(since);
        }
        self.guard.give_back();
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("guard", &self.0.guard.name()).finish()
    }
}

impl fmt::Debug for OwnedPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedPermit").field("guard", &self.0.guard.name()).finish()
    }
}
