//! [`Guarded`], a permit as an argument of a handler.

use std::marker::PhantomData;

use super::request_guard::{RequestGuard, RequestPermit};
use super::{Refusal, RequestHead};
use crate::debug::impl_debug;

/// Chooses the guard that [`Guarded`] acquires: a `static`, or one that depends on the request's head and on the state
/// of the app.
///
/// `S` is the app's state in axum, and `actix_web::HttpRequest` in actix-web, whose `app_data` holds the state. A
/// source that needs no state is implemented for every `S`, and works in both.
///
/// ```
/// use std::sync::Arc;
/// use onelane::KeyedGuard;
/// use onelane::web::{GuardSource, RequestGuard, RequestHead};
///
/// /// The state of an axum app.
/// #[derive(Clone)]
/// struct AppState {
///     per_tenant: Arc<KeyedGuard<String>>,
/// }
///
/// struct Tenant;
///
/// impl GuardSource<AppState> for Tenant {
///     fn guard(head: &RequestHead<'_>, state: &AppState) -> RequestGuard {
///         // A request without a tenant gets status 400.
///         RequestGuard::keyed(&state.per_tenant, head.header("x-tenant").map(str::to_owned))
///     }
/// }
/// ```
pub trait GuardSource<S = ()>: Send + Sync + 'static {
    /// Returns the guard that the request has to pass.
    fn guard(head: &RequestHead<'_>, state: &S) -> RequestGuard;

    /// Changes the response to a request that is refused. The default leaves it unchanged.
    fn refuse(refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
        let _ = head;
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
/// use onelane::web::{GuardSource, Guarded, RequestGuard, RequestHead};
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// struct Report;
///
/// impl<S> GuardSource<S> for Report {
///     fn guard(_: &RequestHead<'_>, _: &S) -> RequestGuard {
///         RequestGuard::from(&REPORT)
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
    permit: RequestPermit,
    source: PhantomData<fn() -> G>,
}

impl<G> Guarded<G> {
    pub(crate) fn new(permit: RequestPermit) -> Self {
        Self { permit, source: PhantomData }
    }

    /// Returns the lease of a guard that is [distributed](crate::guard::GuardBuilder::distributed).
    /// [`Lease::current`](crate::backend::Lease::current) is `None` in the handler, and the loss of the lease does not
    /// cancel the handler, as it would behind a layer: check [`is_lost`](crate::backend::Lease::is_lost), or wait for
    /// [`lost`](crate::backend::Lease::lost).
    #[must_use]
    pub fn lease(&self) -> Option<crate::backend::Lease> {
        self.permit.lease()
    }

    /// Returns the permit, for instance to move it to another task.
    pub fn into_permit(self) -> RequestPermit {
        self.permit
    }
}

impl_debug!([G] Guarded<G> |this| { permit: this.permit });
