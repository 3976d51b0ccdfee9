//! [`LayerSettings`], which a guard layer or middleware shares with the services behind it.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use super::admission::{Admission, refusal_per_key};
use super::body_hold::BodyHold;
use super::{GuardOptions, OnDisconnect, Refusal, RequestHead, RequestKey};
use crate::guard::erased::ErasedSource;
use crate::guard::guarded_work::{DetachedWork, GuardedWork};
use crate::guard::permit::HeldPermit;
use crate::guard::{AcquireError, SharedGuard, SharedKeyedGuard};

/// The settings with which one layer or middleware admits requests. `Q` is the type in which the framework passes a
/// request to the function that reads its key.
pub(super) struct LayerSettings<Q> {
    pub(super) admission: Admission<Q>,
    pub(super) options: GuardOptions,
}

impl<Q> LayerSettings<Q> {
    /// Creates the settings of one guard for all requests.
    pub(super) fn new(guard: impl Into<SharedGuard>) -> Arc<Self> {
        Arc::new(Self { admission: Admission::One(guard.into()), options: GuardOptions::new() })
    }

    /// Creates the settings of a guard with a queue and permits for each key.
    pub(super) fn keyed<K, R>(
        guard: impl Into<SharedKeyedGuard<K>>,
        key_of: impl Fn(&Q) -> R + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        K: Hash + Eq + Send + 'static,
        R: Into<RequestKey<K>>,
    {
        Arc::new(Self { admission: Admission::per_key(guard.into(), key_of), options: GuardOptions::new() })
    }

    pub(super) fn with_options(&self, options: GuardOptions) -> Arc<Self> {
        Arc::new(Self { admission: self.admission.clone(), options })
    }

    /// Returns the refusal of a request that its guard did not admit.
    pub(super) fn refusal(&self, error: AcquireError) -> Refusal {
        match self.admission {
            Admission::One(_) => error.into(),
            Admission::PerKey(_) => refusal_per_key(error, self.options.key_kind),
        }
    }

    /// Applies the user's change to the refusal.
    pub(super) fn refuse(&self, refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
        self.options.on_refusal.apply(refusal, head)
    }

    pub(super) fn hold_body(&self, permit: HeldPermit<ErasedSource>) -> BodyHold {
        BodyHold::new(permit, self.options.body_hold_max)
    }

    /// Returns the future that finishes `handler` without its client, or drops `handler` if it is to be cancelled.
    pub(super) fn detach<F: Future>(
        &self,
        handler: GuardedWork<F, ErasedSource>,
    ) -> Option<DetachedWork<F, ErasedSource>> {
        match self.options.on_disconnect {
            OnDisconnect::Finish => handler.detach(self.options.max_run),
            OnDisconnect::Cancel => None,
        }
    }
}

/// Returns `true` if the head of the response is followed by a tunnel, not by a body.
pub(super) fn is_tunnel(is_connect: bool, status: u16) -> bool {
    status == 101 || is_connect && (200..300).contains(&status)
}

impl<Q> fmt::Debug for LayerSettings<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let admission: &dyn fmt::Debug = match &self.admission {
            Admission::One(guard) => guard,
            Admission::PerKey(_) => &"per key",
        };
        f.debug_struct("LayerSettings").field("admission", admission).field("options", &self.options).finish()
    }
}
