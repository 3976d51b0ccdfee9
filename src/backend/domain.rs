//! [`LockDomain`], the guards that share a store.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::connected::Connected;
#[cfg(feature = "background")]
use super::connected::{call_limit, limited};
use super::error::BackendError;
use super::keeper::Keeper;
use super::lock_backend::{LockBackend, LockName};
use super::turn::Parked;
use crate::debug::impl_debug;
use crate::panic::discard;
use crate::sync::{Mutex, const_unless_loom, lock};

/// What happens to the handler of a web layer, or to a service with a
/// [guard](crate::background::Service::guard), whose lease is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLost {
    /// The handler is dropped at the await point where it waits, and the client gets status 503. A response body that
    /// holds the permit ends with an error. The generation of a service is dropped as well, and the service stands by.
    #[default]
    Cancel,
    /// The handler and its response continue. They can check their [`Lease`](super::Lease). A service is asked to stop.
    Notify,
}

/// What a caller gets if the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenUnavailable {
    /// An error of the kind [`Unavailable`](crate::guard::AcquireErrorKind::Unavailable). Clients get a 503.
    #[default]
    Refuse,
    /// A permit without a [lease](crate::guard::HeldPermit::lease), which excludes only callers of the same process.
    FailLocal,
}

/// Guards that share a store, and thus reach beyond one process.
///
/// A domain is a plain value in a `static`, beside the guards that are
/// [distributed](crate::guard::GuardBuilder::distributed) over it. It is connected when the program starts, and until
/// then its guards refuse their callers.
///
/// The name separates programs that use the same store: processes whose domains and guards have the same names exclude
/// each other.
///
/// ```
/// use std::time::Duration;
/// use onelane::EndpointGuard;
/// use onelane::backend::LockDomain;
///
/// static LOCKS: LockDomain = LockDomain::new("shop").max_hold(Duration::from_secs(60));
/// static REPORT: EndpointGuard = EndpointGuard::builder("report").distributed(&LOCKS).build();
/// ```
pub struct LockDomain {
    name: &'static str,
    options: DomainOptions,
    /// `None` while the domain is not connected.
    connected: Mutex<Option<Arc<Connected>>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct DomainOptions {
    pub(super) cohort_turns: u32,
    pub(super) cohort_time: Duration,
    pub(super) max_hold: Option<Duration>,
    on_lost: OnLost,
    pub(super) when_unavailable: WhenUnavailable,
}

impl LockDomain {
    const_unless_loom! {
        /// Creates a domain with the default settings.
        ///
        /// | setting | default |
        /// |---|---|
        /// | [`cohort`](Self::cohort) | 16 callers, 50 ms |
        /// | [`max_hold`](Self::max_hold) | no limit |
        /// | [`on_lost`](Self::on_lost) | [`OnLost::Cancel`] |
        /// | [`when_unavailable`](Self::when_unavailable) | [`WhenUnavailable::Refuse`] |
        #[must_use]
        pub fn new(name: &'static str) -> Self {
            let options = DomainOptions {
                cohort_turns: 16,
                cohort_time: Duration::from_millis(50),
                max_hold: None,
                on_lost: OnLost::Cancel,
                when_unavailable: WhenUnavailable::Refuse,
            };
            Self { name, options, connected: Mutex::new(None) }
        }
    }

    /// Limits how many callers of one process pass the turn on to each other without a round trip to the store, and for
    /// how long. After that, other processes that wait get their turn first.
    ///
    /// # Panics
    ///
    /// Panics if `callers` is zero. In a `static` this is a compile error.
    #[must_use]
    #[track_caller]
    pub const fn cohort(mut self, callers: u32, time: Duration) -> Self {
        assert!(callers > 0, "cohort(0, …) admits no caller: use 1 to pass no turn on");
        self.options.cohort_turns = callers;
        self.options.cohort_time = time;
        self
    }

    /// Limits how long the lease of one caller is renewed. After that, the lease expires and is lost. Without a limit,
    /// a caller that never ends keeps the lock forever.
    ///
    /// This setting has no effect on a store whose leases don't expire.
    #[must_use]
    pub const fn max_hold(mut self, max_hold: Duration) -> Self {
        self.options.max_hold = Some(max_hold);
        self
    }

    /// Sets what happens to a handler or a service whose lease is lost.
    #[must_use]
    pub const fn on_lost(mut self, on_lost: OnLost) -> Self {
        self.options.on_lost = on_lost;
        self
    }

    /// Sets what a caller gets if the store does not answer.
    #[must_use]
    pub const fn when_unavailable(mut self, when_unavailable: WhenUnavailable) -> Self {
        self.options.when_unavailable = when_unavailable;
        self
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Connects the domain to a store: await the result, or add it to a [`ServiceHost`](crate::ServiceHost) as a
    /// service, which also checks the store while it runs, and disconnects the domain at the end.
    ///
    /// The connection has its own thread, so that a blocked runtime doesn't delay renewals.
    pub fn connect(&'static self, backend: impl LockBackend) -> Connect {
        Connect { domain: self, backend: Arc::new(backend), service_name: self.service_name() }
    }

    /// Disconnects the domain. New callers are refused with
    /// [`NotConnected`](crate::guard::AcquireErrorKind::NotConnected). Callers that wait for other processes are
    /// refused within a second, or once the store has answered their current attempt. Waits until all holders have
    /// released their permits, and until the store has released their locks.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the domain is disconnected, and the locks are still released.
    pub async fn disconnect(&self) {
        let connected = lock(&self.connected).take();
        let Some(connected) = connected else { return };
        let ended = connected.keeper.ended();
        discard(connected.parked.close());
        drop(connected);
        ended.cancelled().await;
    }

    /// Returns `true` if the domain is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        lock(&self.connected).is_some()
    }

    /// Returns the name of the service that connects the domain.
    pub(crate) fn service_name(&self) -> String {
        format!("locks {}", self.name)
    }

    /// Returns the reason why a guard of this domain can't admit a service. `None` if it can.
    #[cfg(feature = "background")]
    pub(crate) fn problem_for_services(&self) -> Option<&'static str> {
        if self.options.max_hold.is_some() {
            return Some(
                "its domain has a `max_hold`, after which each leader would lose its lease: use another domain",
            );
        }
        let is_local = self.options.when_unavailable == WhenUnavailable::FailLocal;
        is_local.then_some("its domain has `FailLocal`, so several processes may run the service: use another domain")
    }

    /// Returns `true` if a handler whose lease is lost is dropped.
    #[cfg(feature = "background")]
    pub(crate) fn cancels_when_lost(&self) -> bool {
        self.options.cancels()
    }

    pub(super) fn connected(&self) -> Option<Arc<Connected>> {
        lock(&self.connected).clone()
    }

    /// Releases a lock that is parked in this process for a caller that will not take it.
    pub(crate) fn clear(&self, name: &LockName) {
        if let Some(connected) = self.connected() {
            // Other parked values belong to locks that are already released.
            discard(connected.parked.unpark_if(name, Parked::is_turn));
        }
    }

    /// Releases all locks of a guard that were left for callers in this process that will not take them.
    pub(crate) fn clear_all(&self, guard: &str) {
        let Some(connected) = self.connected() else { return };
        discard(connected.parked.unpark_all(guard));
    }
}

impl DomainOptions {
    pub(super) fn cancels(&self) -> bool {
        self.on_lost == OnLost::Cancel
    }
}

/// Connects a domain to a store. Created by [`LockDomain::connect`].
#[must_use = "the domain is not connected unless this is awaited, or added to a host"]
#[derive(Debug)]
#[cfg_attr(not(feature = "background"), allow(dead_code, reason = "only services have names"))]
pub struct Connect {
    domain: &'static LockDomain,
    backend: Arc<dyn LockBackend>,
    service_name: String,
}

impl Connect {
    /// Returns the domain.
    #[must_use]
    pub fn domain(&self) -> &'static LockDomain {
        self.domain
    }

    #[cfg(feature = "background")]
    pub(crate) fn service_name(&self) -> &str {
        &self.service_name
    }

    pub(crate) async fn connect(&self) -> Result<(), BackendError> {
        let name = self.domain.name;
        let lease = self.backend.lease();
        if lease.is_some_and(|lease| lease < MIN_LEASE) {
            return Err(BackendError::new("the lease is shorter than 100 ms: set a lease of a few seconds"));
        }
        let keeper = Keeper::start(name, lease)
            .map_err(|error| BackendError::new("the thread that renews leases can't be started").with_source(error))?;
        let backend = Arc::clone(&self.backend);
        let connecting = keeper.handle().spawn(async move {
            backend.connect(name).await?;
            let began = Instant::now();
            backend.check().await.map(|()| began.elapsed())
        });
        let round_trip = connecting
            .await
            .unwrap_or_else(|error| Err(BackendError::new("the backend panicked").with_source(error)))?;
        // A renewal takes place after a third of the lease. With a shorter lease, one slow round trip would lose the
        // lease.
        if let Some(lease) = lease.filter(|lease| *lease < round_trip * 10) {
            return Err(BackendError::new(format!(
                "the lease of {lease:?} is too short for a store that takes {round_trip:?} to answer: set at least {:?}",
                round_trip * 10
            )));
        }
        keeper.renew_in(Arc::clone(&self.backend));
        let connected = Connected::new(self.domain.options, Arc::clone(&self.backend), keeper);
        let mut current = lock(&self.domain.connected);
        if current.is_some() {
            return Err(BackendError::new("the domain is connected already: disconnect it first"));
        }
        *current = Some(connected);
        Ok(())
    }

    /// Checks that the store answers.
    #[cfg(feature = "background")]
    pub(crate) async fn check(&self) -> Result<(), BackendError> {
        let Some(connected) = self.domain.connected() else { return Err(BackendError::new("disconnected")) };
        let backend = Arc::clone(&self.backend);
        let limit = call_limit(backend.lease());
        let checking = connected.keeper.handle().spawn(async move { limited(limit, || backend.check()).await });
        drop(connected);
        checking.await.unwrap_or_else(|error| Err(BackendError::new("the backend panicked").with_source(error)))
    }
}

/// The shortest lease that makes sense.
const MIN_LEASE: Duration = Duration::from_millis(100);

impl IntoFuture for Connect {
    type Output = Result<(), BackendError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Connects the domain. The domain stays connected until [`LockDomain::disconnect`] is called.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.connect().await })
    }
}

impl_debug!(LockDomain |this| { name: this.name, connected: this.connected(), .. });
