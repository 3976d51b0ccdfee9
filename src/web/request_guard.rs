//! [`RequestGuard`], the guard that one request has to pass, and [`RequestPermit`], its permit.

use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use super::admission::{Arrival, refusal_per_key};
use super::{KeyKind, Refusal, RequestKey};
use crate::debug::impl_debug;
use crate::guard::acquire::AcquireFuture;
use crate::guard::erased::ErasedSource;
use crate::guard::permit::HeldPermit;
use crate::guard::{AcquireError, EndpointGuard, SharedGuard, SharedKeyedGuard};

/// The guard that one request has to pass: made from a guard, from a keyed guard and the request's key, or none.
pub struct RequestGuard(Arrival);

/// The permit of a request, of any guard. Dropping it lets the next request run.
#[must_use = "the permit is released as soon as it is dropped: bind it to a name such as `_permit`, not to `_`"]
pub struct RequestPermit(
    // The mutex makes the permit `Sync`, whatever the key. Only `lease` locks it.
    Mutex<Option<HeldPermit<ErasedSource>>>,
);

/// The wait for the permit of a request.
pub(super) enum PermitRequest {
    Wait(AcquireFuture<ErasedSource>, fn(AcquireError) -> Refusal),
    Ready(Result<RequestPermit, Refusal>),
}

impl RequestGuard {
    /// Chooses one key of `guard`. `key` is a key, an `Option` of one, or a [`RequestKey`]: a request without a key is
    /// refused with status 400, or let through.
    pub fn keyed<K>(guard: impl Into<SharedKeyedGuard<K>>, key: impl Into<RequestKey<K>>) -> Self
    where
        K: Hash + Eq + Send + 'static,
    {
        Self(match key.into() {
            RequestKey::Key(key) => Arrival::Guarded(ErasedSource::keyed(guard.into(), key)),
            RequestKey::LetThrough => Arrival::LetThrough,
            RequestKey::Refuse => Arrival::Refused,
        })
    }

    /// Chooses no guard: the request runs at once.
    #[must_use]
    pub fn none() -> Self {
        Self(Arrival::LetThrough)
    }

    pub(super) fn into_request(self) -> PermitRequest {
        match self.0 {
            Arrival::Guarded(source @ ErasedSource::Endpoint(_)) => {
                PermitRequest::Wait(AcquireFuture::new(source), Refusal::from)
            }
            Arrival::Guarded(source) => {
                PermitRequest::Wait(AcquireFuture::new(source), |error| refusal_per_key(error, KeyKind::Client))
            }
            Arrival::LetThrough => PermitRequest::Ready(Ok(RequestPermit(Mutex::new(None)))),
            Arrival::Refused => PermitRequest::Ready(Err(Refusal::key_missing())),
        }
    }
}

impl RequestPermit {
    /// Returns the lease of a guard that is [distributed](crate::guard::GuardBuilder::distributed). The loss of the lease
    /// is not noticed by the permit itself.
    #[must_use]
    pub fn lease(&self) -> Option<crate::backend::Lease> {
        // Nothing else locks the mutex, so a poisoned one protects a permit that is intact.
        let permit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        permit.as_ref().and_then(|permit| permit.lease().cloned())
    }

    pub(super) fn new(permit: HeldPermit<ErasedSource>) -> Self {
        Self(Mutex::new(Some(permit)))
    }
}

impl From<SharedGuard> for RequestGuard {
    fn from(guard: SharedGuard) -> Self {
        Self(Arrival::Guarded(ErasedSource::Endpoint(guard)))
    }
}

impl From<&'static EndpointGuard> for RequestGuard {
    fn from(guard: &'static EndpointGuard) -> Self {
        SharedGuard::from(guard).into()
    }
}

impl From<Arc<EndpointGuard>> for RequestGuard {
    fn from(guard: Arc<EndpointGuard>) -> Self {
        SharedGuard::from(guard).into()
    }
}

impl From<&Arc<EndpointGuard>> for RequestGuard {
    fn from(guard: &Arc<EndpointGuard>) -> Self {
        SharedGuard::from(guard).into()
    }
}

impl_debug!(RequestGuard |this| { guarded: matches!(this.0, Arrival::Guarded(_)), .. });

impl_debug!(RequestPermit |this| { permit: this.0 });
