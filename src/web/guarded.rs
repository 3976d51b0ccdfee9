//! [`Guarded`], a permit as an argument of a handler.

use std::marker::PhantomData;

use super::Refusal;
use crate::debug::impl_debug;
use crate::guard::{OwnedPermit, SharedGuard};

/// Names the guard that [`Guarded`] acquires, in a `static` or a `LazyLock`. (If the guard is in the app's state,
/// acquire it in the handler.)
pub trait GuardSource: Send + Sync + 'static {
    /// Returns the guard.
    fn guard() -> SharedGuard;

    /// Changes the response to a request that is refused. The default leaves it unchanged.
    fn refuse(refusal: Refusal) -> Refusal {
        refusal
    }
}

/// A permit as an argument of a handler: an extractor for axum and actix-web.
///
/// The handler starts when its request has been granted a permit. The permit is released when this value is dropped: at
/// the end of the handler, or earlier where only a part of the handler needs the permit.
///
/// It differs from the layer in two ways. If the client disconnects, the framework drops the handler; wrap work that
/// must not be interrupted in [`run_to_completion`](crate::EndpointGuard::run_to_completion). If the handler acquires
/// the same guard again, this is not detected: the handler waits for itself.
///
/// Use it as an argument of an `async fn`. A closure such as `|_permit: Guarded<Report>| async { … }` drops it before
/// the async block starts, unless the block is `async move` and uses the permit.
///
/// In axum, place it before the extractor that reads the body. The body is unread while the request waits, so the
/// server notices a client that disconnects only with a [`WatchedListener`](super::axum::WatchedListener).
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
/// async fn report(permit: Guarded<Report>) -> &'static str {
///     // … one request at a time here …
///     drop(permit);
///     // … and any number here.
///     "done"
/// }
/// ```
#[must_use = "the permit is released as soon as this is dropped"]
pub struct Guarded<G> {
    permit: OwnedPermit,
    source: PhantomData<fn() -> G>,
}

impl<G: GuardSource> Guarded<G> {
    pub(crate) fn new(permit: OwnedPermit) -> Self {
        Self { permit, source: PhantomData }
    }

    /// Returns the permit, for instance to move it to another task.
    pub fn into_permit(self) -> OwnedPermit {
        self.permit
    }
}

impl_debug!([G] Guarded<G> |this| { permit: this.permit });
