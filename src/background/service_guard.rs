//! [`ServiceGuard`], the guard that admits a service, and the [`ServicePermit`] that a generation of the service holds.

#[cfg(not(feature = "guard"))]
pub(crate) use self::absent::{ServiceGuard, ServiceLease, ServicePermit};
#[cfg(feature = "guard")]
pub(crate) use self::present::{ServiceGuard, ServiceLease, ServicePermit};

#[cfg(feature = "guard")]
mod present {
    use std::future::{Future, poll_fn};
    use std::sync::Arc;
    use std::task::Poll;

    use tokio_util::sync::CancellationToken;

    use crate::backend::{CurrentLease, Lease, LockDomain};
    use crate::error_chain::ErrorChain;
    use crate::guard::{OwnedPermit, SharedGuard};
    use crate::panic::{catch_work, discard};

    #[derive(Clone, Debug)]
    pub(crate) struct ServiceGuard(pub(crate) SharedGuard);

    #[derive(Debug)]
    pub(crate) struct ServicePermit(OwnedPermit);

    #[derive(Clone, Debug)]
    pub(crate) struct ServiceLease {
        lease: Lease,
        /// The service does not continue without its lease.
        cancels_when_lost: bool,
    }

    impl ServiceGuard {
        pub(crate) fn name(&self) -> &str {
            self.0.name()
        }

        /// Returns the name of the service that connects the guard's domain.
        pub(crate) fn connected_by(&self) -> Option<String> {
            self.0.domain().map(LockDomain::service_name)
        }

        /// Returns the reason why the guard can't admit a service. `None` if it can.
        pub(crate) fn problem(&self) -> Option<&'static str> {
            self.0.domain().and_then(LockDomain::problem_for_services)
        }

        /// Returns `true` if a generation that loses its lease is dropped, and `false` if it is asked to stop.
        pub(crate) fn cancels_when_lost(&self) -> bool {
            self.0.domain().is_some_and(LockDomain::cancels_when_lost)
        }

        /// Waits for a permit. The error is the reason why this attempt failed. Errors of a store are user code, and a
        /// panic in them ends only this attempt.
        pub(crate) async fn admit(&self) -> Result<ServicePermit, Arc<str>> {
            let refused = |error| Arc::from(ErrorChain(&error).to_string());
            let attempt = async { self.0.clone().acquire_owned().await.map(ServicePermit::new).map_err(refused) };
            let mut attempt = Box::pin(attempt);
            let caught = poll_fn(|cx| match catch_work(|| attempt.as_mut().poll(cx)) {
                Ok(poll) => poll,
                Err(panic) => Poll::Ready(Err(Arc::from(format!("the guard panicked: {panic}")))),
            });
            let result = caught.await;
            discard(attempt);
            result
        }
    }

    impl ServicePermit {
        pub(crate) fn new(permit: OwnedPermit) -> Self {
            Self(permit)
        }

        /// Returns the lease. `None` if the guard is not distributed, or if its store did not answer.
        pub(crate) fn lease(&self) -> Option<ServiceLease> {
            let (lease, domain) = (self.0.lease()?.clone(), self.0.source().domain());
            Some(ServiceLease { lease, cancels_when_lost: domain.is_some_and(LockDomain::cancels_when_lost) })
        }
    }

    impl ServiceLease {
        /// Returns a token that is cancelled when the lease is lost.
        pub(crate) fn lost(&self) -> CancellationToken {
            self.lease.lost()
        }

        /// Returns `true` if the lease is lost and its service is about to be dropped. The clock shows the loss earlier
        /// than the token.
        pub(crate) fn is_revoked(&self) -> bool {
            self.cancels_when_lost && self.lease.is_lost()
        }

        /// Makes the lease the current one of this thread until the returned value is dropped.
        pub(crate) fn enter(&self) -> Option<CurrentLease> {
            self.lease.enter()
        }
    }
}

/// Without the feature `guard`, no service has a guard.
#[cfg(not(feature = "guard"))]
mod absent {
    use std::convert::Infallible;
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    #[derive(Clone, Debug)]
    pub(crate) struct ServiceGuard(Infallible);

    #[derive(Debug)]
    pub(crate) struct ServicePermit(Infallible);

    #[derive(Clone, Debug)]
    pub(crate) struct ServiceLease(Infallible);

    impl ServiceGuard {
        pub(crate) fn name(&self) -> &str {
            match self.0 {}
        }

        pub(crate) fn connected_by(&self) -> Option<String> {
            match self.0 {}
        }

        pub(crate) fn problem(&self) -> Option<&'static str> {
            match self.0 {}
        }

        pub(crate) fn cancels_when_lost(&self) -> bool {
            match self.0 {}
        }

        pub(crate) async fn admit(&self) -> Result<ServicePermit, Arc<str>> {
            match self.0 {}
        }
    }

    impl ServicePermit {
        pub(crate) fn lease(&self) -> Option<ServiceLease> {
            match self.0 {}
        }
    }

    impl ServiceLease {
        pub(crate) fn lost(&self) -> CancellationToken {
            match self.0 {}
        }

        pub(crate) fn is_revoked(&self) -> bool {
            match self.0 {}
        }

        pub(crate) fn enter(&self) -> Option<Infallible> {
            match self.0 {}
        }
    }
}
