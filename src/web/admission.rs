//! [`Admission`], which finds the guard and the key of a request for a layer or middleware.

use std::hash::Hash;
use std::sync::Arc;

use super::{KeyKind, Refusal, RequestKey};
use crate::guard::erased::ErasedSource;
use crate::guard::{AcquireError, AcquireErrorKind, SharedGuard, SharedKeyedGuard};

/// The way in which a layer or middleware finds the guard and the key of a request. `Q` is the type in which a request
/// is passed.
pub(crate) enum Admission<Q> {
    /// The same guard for every request.
    One(SharedGuard),
    /// A keyed guard, with the key of the request.
    PerKey(Arc<dyn Fn(&Q) -> Arrival + Send + Sync>),
}

/// The way in which a request that has arrived is handled.
pub(crate) enum Arrival {
    Guarded(ErasedSource),
    LetThrough,
    Refused,
}

impl<Q> Clone for Admission<Q> {
    fn clone(&self) -> Self {
        match self {
            Self::One(guard) => Self::One(guard.clone()),
            Self::PerKey(key_of) => Self::PerKey(Arc::clone(key_of)),
        }
    }
}

impl<Q> Admission<Q> {
    pub(crate) fn per_key<K, L>(guard: SharedKeyedGuard<K>, key_of: impl Fn(&Q) -> L + Send + Sync + 'static) -> Self
    where
        K: Hash + Eq + Send + 'static,
        L: Into<RequestKey<K>>,
    {
        Self::PerKey(Arc::new(move |request| match key_of(request).into() {
            RequestKey::Key(key) => Arrival::Guarded(ErasedSource::keyed(guard.clone(), key)),
            RequestKey::LetThrough => Arrival::LetThrough,
            RequestKey::Refuse => Arrival::Refused,
        }))
    }
}

/// Returns the refusal of a request by a keyed guard.
pub(crate) fn refusal_per_key(error: AcquireError, kind: KeyKind) -> Refusal {
    use AcquireErrorKind::{Busy, QueueFull, Timeout};
    let is_about_the_key = matches!(error.kind(), Busy | QueueFull | Timeout);
    let refusal = Refusal::from(error);
    if !is_about_the_key {
        return refusal;
    }
    match kind {
        KeyKind::Client => refusal
            .with_status(429)
            .with_detail("Other requests of this client are being served here. Try again later."),
        KeyKind::Resource => {
            refusal.with_status(409).with_detail("Other requests for this resource are being served. Try again later.")
        }
    }
}
