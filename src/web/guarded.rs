//! [`Guarded`], a turn as an argument of a handler.

use std::fmt;
use std::marker::PhantomData;

use super::Refusal;
use crate::guard::{OwnedPermit, SharedGuard};

/// Names the guard that [`Guarded`] waits for: one in a `static`, or in a `LazyLock`. (With a guard in the app's state,
/// acquire it in the handler.)
pub trait GuardSource: Send + Sync + 'static {
    /// The guard.
    fn guard() -> SharedGuard;

    /// Changes the answer to requests that are not let in. By default it is left as it is.
    fn refuse(refusal: Refusal) -> Refusal {
        refusal
    }
}

/// A turn as an argument of a handler: an extractor for axum and actix-web.
///
/// The handler starts when its turn has come, and gives it back when it drops this: at its end, or earlier where only a
/// part of it needs the turn. Unlike under the layer, a client that leaves cancels the handler as the framework does;
/// wrap what must not be cut in half in
/// [`run_to_completion`](crate::EndpointGuard::run_to_completion). And unlike under the layer, a handler that acquires
/// the same guard again is not found out: it waits for itself.
///
/// Take it in an `async fn`. A closure such as `|_turn: Guarded<Report>| async { … }` drops it before the async block
/// starts, unless the block is `async move` and names it.
///
/// In axum, place it before the extractor of the body. While it waits the body is unread, so a client that leaves is
/// noticed only with a [`WatchedListener`](super::axum::WatchedListener).
///
/// ```
/// use onelane::EndpointGuard;
/// use onelane::guard::SharedGuard;
/// use onelane::web::{GuardSource, Guarded};
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// struct Report;
///
/// impl GuardSource for Report {
///     fn guard() -> SharedGuard {
///         SharedGuard::from(&REPORT)
///     }
/// }
///
/// async fn report(turn: Guarded<Report>) -> &'static str {
///     // … one request at a time here …
///     drop(turn);
///     // … and any number here.
///     "done"
/// }
/// ```
#[must_use = "the turn is over as soon as this is dropped"]
pub struct Guarded<G> {
    permit: OwnedPermit,
    source: PhantomData<fn() -> G>,
}

impl<G: GuardSource> Guarded<G> {
    pub(crate) fn new(permit: OwnedPermit) -> Self {
        Self { permit, source: PhantomData }
    }

    /// The permit, to move it elsewhere.
    pub fn into_permit(self) -> OwnedPermit {
        self.permit
    }
}

impl<G> fmt::Debug for Guarded<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guarded").field(&self.permit).finish()
    }
}
