//! [`Permit`] and [`OwnedPermit`], proof that its holder is inside.

use std::fmt;
use std::thread;

use tokio::time::Instant;

use super::EndpointGuard;
use super::core::Gate;
use super::scope::Scope;
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

/// One permit of the lane behind `G`.
pub(crate) struct Held<G: Gate> {
    gate: G,
    /// Set if this holder is the one being timed.
    timed_since: Option<Instant>,
}

impl<G: Gate> Held<G> {
    /// Takes charge of a permit that the lane has just given.
    #[inline]
    pub(super) fn new(gate: G) -> Self {
        let timed_since = gate.core().hold_time.start();
        Self { gate, timed_since }
    }

    pub(crate) fn gate(&self) -> &G {
        &self.gate
    }

    /// Marks this thread as inside.
    pub(crate) fn enter_scope(&self) -> Scope {
        Scope::enter(self.gate.scope().expect("its holder is inside"))
    }
}

impl<G: Gate> Drop for Held<G> {
    #[inline]
    fn drop(&mut self) {
        let core = self.gate.core();
        if thread::panicking() {
            core.counters.panicked.add(1);
        }
        if let Some(since) = self.timed_since {
            core.hold_time.finish(since);
        }
        self.gate.give_back();
    }
}

impl<G: Gate> fmt::Debug for Held<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as("Held", f)
    }
}

impl<G: Gate> Held<G> {
    pub(crate) fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name).field("guard", &self.gate.core().name).finish()
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("Permit", f)
    }
}

impl fmt::Debug for OwnedPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("OwnedPermit", f)
    }
}
