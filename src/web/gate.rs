//! [`WebGate`], the lane that a request is to pass, and [`Admission`], which finds it.

use std::hash::Hash;
use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use super::{KeyKind, Refusal, RequestKey};
use crate::guard::core::{Core, Gate, HasCore, OwnedGate};
use crate::guard::scope::ScopeId;
use crate::guard::{AcquireError, KeyGate, SharedGuard, SharedKeyedGuard};
use crate::semaphore::{CancelOutcome, EnqueueOutcome, Refused, WaitOutcome, WaiterId};

/// How a layer or middleware finds the lane of a request, which it shows as a `Q`.
pub(crate) enum Admission<Q> {
    /// One guard for all.
    One(SharedGuard),
    /// A lane for each key.
    PerKey(Arc<dyn Fn(&Q) -> Arrival + Send + Sync>),
}

/// What becomes of a request when it arrives.
pub(crate) enum Arrival {
    AtGate(WebGate),
    LetThrough,
    Refused,
}

/// The lane that a request is to pass. The kind of its key is not known here, so that the layers need no type for it.
pub(crate) enum WebGate {
    One(SharedGuard),
    OfKey(Box<dyn KeyedGate>),
}

pub(crate) trait KeyedGate: Gate + Send {
    fn guard(&self) -> Box<dyn HasCore + Send + Sync>;
}

/// The guard behind a [`WebGate`].
pub(crate) enum WebGuard {
    One(SharedGuard),
    Keyed(Box<dyn HasCore + Send + Sync>),
}

impl<Q> Admission<Q> {
    pub(crate) fn per_key<K, L>(guard: SharedKeyedGuard<K>, key_of: impl Fn(&Q) -> L + Send + Sync + 'static) -> Self
    where
        K: Hash + Eq + Send + 'static,
        L: Into<RequestKey<K>>,
    {
        Self::PerKey(Arc::new(move |request| match key_of(request).into() {
            RequestKey::Key(key) => Arrival::AtGate(WebGate::OfKey(Box::new(KeyGate::new(guard.clone(), key)))),
            RequestKey::LetThrough => Arrival::LetThrough,
            RequestKey::Refuse => Arrival::Refused,
        }))
    }
}

/// The refusal of a request by a lane of its key.
pub(crate) fn refusal_per_key(error: AcquireError, kind: KeyKind) -> Refusal {
    let is_about_the_key =
        matches!(error, AcquireError::Busy { .. } | AcquireError::QueueFull { .. } | AcquireError::Timeout { .. });
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

impl<K> KeyedGate for KeyGate<K, SharedKeyedGuard<K>>
where
    K: Hash + Eq + Send + 'static,
{
    fn guard(&self) -> Box<dyn HasCore + Send + Sync> {
        Box::new(OwnedGate::guard(self))
    }
}

impl HasCore for WebGuard {
    fn core(&self) -> &Core {
        match self {
            Self::One(guard) => HasCore::core(guard),
            Self::Keyed(guard) => guard.core(),
        }
    }
}

impl OwnedGate for WebGate {
    type Guard = WebGuard;

    fn guard(&self) -> WebGuard {
        match self {
            Self::One(guard) => WebGuard::One(guard.clone()),
            Self::OfKey(gate) => WebGuard::Keyed(gate.guard()),
        }
    }
}

macro_rules! either {
    ($gate:expr, $one:ident => $result:expr) => {
        match $gate {
            Self::One($one) => $result,
            Self::OfKey($one) => $result,
        }
    };
}

impl Gate for WebGate {
    #[inline]
    fn core(&self) -> &Core {
        match self {
            Self::One(guard) => Gate::core(guard),
            Self::OfKey(gate) => gate.core(),
        }
    }

    fn permits(&self) -> usize {
        either!(self, gate => gate.permits())
    }

    fn waiting(&self) -> usize {
        either!(self, gate => gate.waiting())
    }

    #[inline]
    fn try_enter(&mut self) -> Result<(), Refused> {
        either!(self, gate => gate.try_enter())
    }

    fn join(&mut self, waker: &Waker) -> EnqueueOutcome {
        either!(self, gate => gate.join(waker))
    }

    fn ask(&mut self, ticket: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome> {
        either!(self, gate => gate.ask(ticket, waker))
    }

    fn give_up(&mut self, ticket: WaiterId) -> Option<WaitOutcome> {
        either!(self, gate => gate.give_up(ticket))
    }

    fn leave(&mut self, ticket: WaiterId) -> CancelOutcome {
        either!(self, gate => gate.leave(ticket))
    }

    #[inline]
    fn exit(&mut self) -> bool {
        either!(self, gate => gate.exit())
    }

    fn expire_grants(&mut self, limit: Instant, now: Instant) -> (usize, Option<Instant>) {
        either!(self, gate => gate.expire_grants(limit, now))
    }

    fn is_closed(&self) -> bool {
        either!(self, gate => gate.is_closed())
    }

    fn is_drained(&self) -> bool {
        either!(self, gate => gate.is_drained())
    }

    #[inline]
    fn scope(&self) -> Option<ScopeId> {
        either!(self, gate => gate.scope())
    }
}
