//! [`ErasedSource`], a source of permits of any guard, without its key type.

use std::hash::Hash;
use std::task::Waker;

use tokio::time::Instant;

use super::core::{GuardCore, HasGuardCore};
use super::endpoint_guard::SharedGuard;
use super::key_map::Hash64;
use super::keyed::{KeyedSource, SharedKeyedGuard};
use super::source::{OwnedPermitSource, PermitSource};
use crate::backend::LockName;
use crate::scope::ScopeId;
use crate::semaphore::{CancelOutcome, EnqueueOutcome, ReleaseOutcome, SemaphoreRefusal, WaitOutcome, WaiterId};

/// A source of permits of any guard. The key type is erased, so that the web layers have no type parameter for it.
pub(crate) enum ErasedSource {
    Endpoint(SharedGuard),
    Keyed(Box<dyn ErasedKeyedSource>),
}

pub(crate) trait ErasedKeyedSource: PermitSource + Send {
    fn guard(&self) -> Box<dyn HasGuardCore + Send + Sync>;
}

/// The guard of an [`ErasedSource`].
pub(crate) enum ErasedGuard {
    Endpoint(SharedGuard),
    Keyed(Box<dyn HasGuardCore + Send + Sync>),
}

impl ErasedSource {
    pub(crate) fn keyed<K>(guard: SharedKeyedGuard<K>, key: K) -> Self
    where
        K: Hash + Eq + Send + 'static,
    {
        Self::Keyed(Box::new(KeyedSource::new(guard, key)))
    }
}

impl<K> ErasedKeyedSource for KeyedSource<K, SharedKeyedGuard<K>>
where
    K: Hash + Eq + Send + 'static,
{
    fn guard(&self) -> Box<dyn HasGuardCore + Send + Sync> {
        Box::new(OwnedPermitSource::guard(self))
    }
}

impl HasGuardCore for ErasedGuard {
    fn core(&self) -> &GuardCore {
        match self {
            Self::Endpoint(guard) => HasGuardCore::core(guard),
            Self::Keyed(guard) => guard.core(),
        }
    }
}

impl OwnedPermitSource for ErasedSource {
    type Guard = ErasedGuard;

    fn guard(&self) -> ErasedGuard {
        match self {
            Self::Endpoint(guard) => ErasedGuard::Endpoint(guard.clone()),
            Self::Keyed(source) => ErasedGuard::Keyed(source.guard()),
        }
    }
}

macro_rules! delegate {
    ($self:expr, $source:ident => $result:expr) => {
        match $self {
            Self::Endpoint($source) => $result,
            Self::Keyed($source) => $result,
        }
    };
}

impl PermitSource for ErasedSource {
    #[inline]
    fn core(&self) -> &GuardCore {
        match self {
            Self::Endpoint(guard) => PermitSource::core(guard),
            Self::Keyed(source) => source.core(),
        }
    }

    fn permits(&self) -> usize {
        delegate!(self, source => source.permits())
    }

    fn waits(&self) -> bool {
        delegate!(self, source => source.waits())
    }

    fn waiting(&self) -> usize {
        delegate!(self, source => source.waiting())
    }

    #[inline]
    fn try_acquire(&mut self) -> Result<(), SemaphoreRefusal> {
        delegate!(self, source => source.try_acquire())
    }

    fn enqueue(&mut self, waker: &Waker) -> EnqueueOutcome {
        delegate!(self, source => source.enqueue(waker))
    }

    fn poll(&mut self, waiter: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome> {
        delegate!(self, source => source.poll(waiter, waker))
    }

    fn poll_final(&mut self, waiter: WaiterId) -> Option<WaitOutcome> {
        delegate!(self, source => source.poll_final(waiter))
    }

    fn cancel(&mut self, waiter: WaiterId) -> CancelOutcome {
        delegate!(self, source => source.cancel(waiter))
    }

    #[inline]
    fn release(&mut self) -> ReleaseOutcome {
        delegate!(self, source => source.release())
    }

    fn forget(&mut self) -> bool {
        delegate!(self, source => source.forget())
    }

    fn expire_grants(&mut self, limit: Instant, now: Instant) -> (usize, Option<Instant>) {
        delegate!(self, source => source.expire_grants(limit, now))
    }

    fn lock_name(&self) -> LockName {
        delegate!(self, source => source.lock_name())
    }

    fn is_closed(&self) -> bool {
        delegate!(self, source => source.is_closed())
    }

    fn is_drained(&self) -> bool {
        delegate!(self, source => source.is_drained())
    }

    fn key_hash(&self) -> Option<Hash64> {
        delegate!(self, source => source.key_hash())
    }

    #[inline]
    fn scope(&self) -> Option<ScopeId> {
        delegate!(self, source => source.scope())
    }
}
