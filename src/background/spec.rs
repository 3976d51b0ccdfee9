//! [`Service`], a service with its options, which is what the builder of a host accepts.

use std::sync::Arc;
use std::time::Duration;

use super::blocking::BlockingService;
use super::generation::{AsyncRunner, BlockingRunner, ServiceRunner};
use super::placement::Placement;
use super::restart::{Backoff, Intensity, Restart};
use super::service::BackgroundService;
use super::service_guard::ServiceGuard;
use super::status::TickSource;
use crate::debug::impl_debug;

/// A service with its options.
///
/// [`ServiceHostBuilder::service`](super::ServiceHostBuilder::service) also accepts a [`BackgroundService`] directly
/// and gives it the default options below. To set options, or to create a service from a closure, use one of these:
///
/// | constructor | creates a service from |
/// |---|---|
/// | [`Service::new`] | a [`BackgroundService`] |
/// | [`Service::blocking`] | a [`BlockingService`], on a dedicated thread |
/// | [`service_fn`](super::service_fn) | an async closure |
/// | [`blocking_fn`](super::blocking_fn) | a blocking closure, on a dedicated thread |
/// | [`periodic`](super::periodic()) | an async closure that is called on a schedule |
/// | [`periodic_blocking`](super::periodic_blocking) | a blocking closure that is called on a schedule |
/// | [`lifespan`](super::lifespan) | two async closures, for before the first request and after the last |
///
/// | option | default |
/// |---|---|
/// | [`after`](Self::after), [`restart_with`](Self::restart_with) | no dependencies |
/// | [`placement`](Self::placement) | [`Placement::Shared`] |
/// | [`stack_size`](Self::stack_size) | that of [`std::thread`] |
/// | [`restart`](Self::restart) | [`Restart::OnFailure`] |
/// | [`backoff`](Self::backoff) | 1 second, doubled up to 30 seconds, with a jitter of 0.5 |
/// | [`intensity`](Self::intensity) | 5 restarts in 60 seconds |
/// | [`stable_after`](Self::stable_after) | 30 seconds |
/// | [`degradable`](Self::degradable) | no: the service is critical |
/// | [`intake`](Self::intake) | no: the service stops after the server |
/// | [`manual_ready`](Self::manual_ready) | no: the service is ready once `start` has returned `Ok` |
/// | `guard`, with the feature `guard` | none: the service runs in each process |
/// | [`heartbeat`](Self::heartbeat) | none expected |
/// | [`start_timeout`](Self::start_timeout) | 30 seconds |
/// | [`stop_timeout`](Self::stop_timeout) | 5 seconds |
/// | [`cleanup_timeout`](Self::cleanup_timeout) | 2 seconds |
///
/// # Examples
///
/// ```
/// use onelane::background::{Backoff, Placement, Restart, ServiceHost, service_fn};
/// use std::time::Duration;
///
/// let consumer = service_fn("consumer", |cx| async move {
///     cx.stopping().await;
///     Ok(())
/// });
/// let host = ServiceHost::builder()
///     .service(service_fn("pool", |cx| async move { Ok(cx.stopping().await) }))
///     .service(
///         consumer
///             .after("pool")
///             .placement(Placement::Thread)
///             .restart(Restart::Always)
///             .backoff(Backoff::new(Duration::from_millis(50)))
///             .degradable(),
///     )
///     .build();
/// assert!(host.is_ok());
/// ```
#[must_use = "a service does nothing unless it is added to a host"]
pub struct Service {
    pub(crate) name: Arc<str>,
    pub(crate) runner: Arc<dyn ServiceRunner>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) options: ServiceOptions,
    pub(crate) ticker: Option<Arc<dyn TickSource>>,
}

/// A dependency on another service.
#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) name: Arc<str>,
    pub(crate) restarts_with: bool,
}

/// The options of a service.
#[derive(Clone, Debug)]
pub(crate) struct ServiceOptions {
    pub(crate) placement: Placement,
    pub(crate) stack_size: Option<usize>,
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) intensity: Intensity,
    pub(crate) stable_after: Duration,
    pub(crate) is_critical: bool,
    pub(crate) is_intake: bool,
    pub(crate) manual_ready: bool,
    pub(crate) guard: Option<ServiceGuard>,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) start_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) cleanup_timeout: Duration,
}

impl ServiceOptions {
    pub(crate) fn new(placement: Placement) -> Self {
        Self {
            placement,
            stack_size: None,
            restart: Restart::default(),
            backoff: Backoff::default(),
            intensity: Intensity::default(),
            stable_after: Duration::from_secs(30),
            is_critical: true,
            is_intake: false,
            manual_ready: false,
            guard: None,
            heartbeat: None,
            start_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
            cleanup_timeout: Duration::from_secs(2),
        }
    }
}

impl Service {
    /// Creates an async service with the default options.
    pub fn new<S: BackgroundService>(service: S) -> Self {
        Self::with_name(service.name().into(), service)
    }

    /// Like [`new`](Self::new), for a name that is already in an `Arc`.
    pub(super) fn with_name<S: BackgroundService>(name: Arc<str>, service: S) -> Self {
        Self::with_runner(name, Arc::new(AsyncRunner::new(service)), Placement::Shared)
    }

    /// Creates a blocking service with the default options.
    pub fn blocking<S: BlockingService>(service: S) -> Self {
        let name = service.name().into();
        Self::with_runner(name, Arc::new(BlockingRunner::new(service)), Placement::Blocking)
    }

    fn with_runner(name: Arc<str>, runner: Arc<dyn ServiceRunner>, placement: Placement) -> Self {
        Self { name, runner, dependencies: Vec::new(), options: ServiceOptions::new(placement), ticker: None }
    }

    pub(super) fn with_ticker(mut self, ticker: Arc<dyn TickSource>) -> Self {
        self.ticker = Some(ticker);
        self
    }

    /// Returns the name of the service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes this service start once the named service is ready for the first time or has completed, and stop before
    /// it.
    ///
    /// Services that do not depend on each other start and stop concurrently.
    pub fn after(mut self, service: &str) -> Self {
        self.dependencies.push(Dependency { name: service.into(), restarts_with: false });
        self
    }

    /// Like [`after`](Self::after), and also restarts this service together with the named one.
    ///
    /// Whenever the named service is restarted, this service is stopped, and begins a new generation once the named
    /// service is ready again. Such a restart does not count as a failure of this service. If the host gives up on the
    /// named service, it also gives up on this one.
    pub fn restart_with(mut self, service: &str) -> Self {
        self.dependencies.push(Dependency { name: service.into(), restarts_with: true });
        self
    }

    /// Sets where the futures of the service are polled.
    ///
    /// [`Placement::Blocking`] is only for blocking services, which have no other placement.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.options.placement = placement;
        self
    }

    /// Sets the stack size, in bytes, of the threads that run only this service: those of a blocking service, of
    /// [`Placement::Thread`] with its blocking tasks, and of a `stop` that the host calls on another thread. Default:
    /// that of [`std::thread`], and for the blocking tasks that of tokio.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.options.stack_size = Some(bytes);
        self
    }

    /// Sets which exits cause a restart.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.options.restart = restart;
        self
    }

    /// Sets how long the host waits before a restart.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = backoff;
        self
    }

    /// Sets how many restarts are allowed before the host gives up on the service.
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.options.intensity = intensity;
        self
    }

    /// Sets for how long the service has to be ready in one generation before its count of consecutive failures is
    /// reset: see [`Backoff`].
    pub fn stable_after(mut self, ready_for: Duration) -> Self {
        self.options.stable_after = ready_for;
        self
    }

    /// Allows the host to keep running without this service.
    ///
    /// By default a service is *critical*: its first start must succeed, and if the host gives up on the service, the
    /// host stops and returns an error. The first start of a degradable service may fail, and is then retried according
    /// to its restart policy. If the host gives up on the service, the status and `/readyz?verbose` show it, and the
    /// host continues.
    pub fn degradable(mut self) -> Self {
        self.options.is_critical = false;
        self
    }

    /// Stops the service as soon as the host begins to stop, while the server drains. Use it for a service that brings
    /// work in, such as the consumer of a queue: it takes no more messages, and finishes those that it has.
    ///
    /// If services without this option start [`after`](Self::after) it, it stops after them.
    pub fn intake(mut self) -> Self {
        self.options.is_intake = true;
        self
    }

    /// Runs the service only while it holds a permit of `guard`. With a guard that is
    /// [distributed](crate::guard::GuardBuilder::distributed), the service runs in one process of the host, or of the
    /// cluster, at a time: that process is its *leader*.
    ///
    /// The other processes [stand by](super::ServiceState::Standby). Their hosts start without the service and count it
    /// as ready, so services that start [`after`](Self::after) it start as well. When the leader stops, fails or dies,
    /// one of them begins a generation, from `start`. If that `start` fails, the host has already started, so the
    /// service is restarted like one that fails later. The code of the service gets the lease, and with it the fencing
    /// token, from [`Lease::current`](crate::backend::Lease::current).
    ///
    /// If the leader loses its lease, its generation is dropped at the await point where it waits, and ends as
    /// [`LeaseLost`](super::ExitKind::LeaseLost). With [`OnLost::Notify`](crate::backend::OnLost::Notify), and if it
    /// blocks, the generation is asked to stop instead. The service then stands by again, whatever its
    /// [`restart`](Self::restart) policy is. If the permit can't be acquired, because the store does not answer or the
    /// domain is not connected, the service tries again after at most a second.
    ///
    /// A service that completes releases its permit, and another process then runs the service as well. If a generation
    /// leaves a blocked thread behind, the permit is held until that thread has ended. The lease lasts as long as the
    /// generation. Building the host therefore fails if the guard's domain has a
    /// [`max_hold`](crate::backend::LockDomain::max_hold) or [`FailLocal`](crate::backend::WhenUnavailable::FailLocal),
    /// or if the host [manages](super::ServiceHostBuilder::manage) the guard. The code of the service must not acquire
    /// `guard` itself, because the code would wait for its own permit.
    ///
    /// If the host also [connects](crate::backend::LockDomain::connect) the domain, the service starts once the domain
    /// is connected, and its lock is released before the domain is disconnected.
    ///
    /// A [periodic](super::periodic()) service makes its calls in the leader alone, so a cron job runs once however
    /// many replicas the server has, as far as their clocks agree. A call that was due while no process was the leader
    /// does not take place.
    ///
    /// ```
    /// use std::time::Duration;
    /// use onelane::EndpointGuard;
    /// use onelane::backend::LockDomain;
    /// use onelane::background::{Every, ServiceHost, periodic};
    ///
    /// static LOCKS: LockDomain = LockDomain::new("shop");
    /// static NIGHTLY: EndpointGuard = EndpointGuard::builder("nightly").distributed(&LOCKS).build();
    ///
    /// let nightly = periodic("nightly", Every::secs(86_400), |_cx| async { Ok(()) }).guard(&NIGHTLY);
    /// // In a real server, add `LOCKS.connect(…)` to the host as well.
    /// let host = ServiceHost::builder().service(nightly).build()?;
    /// # Ok::<(), onelane::background::BuildError>(())
    /// ```
    #[cfg(feature = "guard")]
    pub fn guard(mut self, guard: impl Into<crate::guard::SharedGuard>) -> Self {
        self.options.guard = Some(ServiceGuard(guard.into()));
        self
    }

    /// Makes the service ready only once it has called [`ready`](super::RunContext::ready), in each generation.
    ///
    /// Services that start [`after`](Self::after) it wait for that call.
    /// [`ServiceHost::start`](super::ServiceHost::start) does not.
    pub fn manual_ready(mut self) -> Self {
        self.options.manual_ready = true;
        self
    }

    /// Expects the service to call [`heartbeat`](super::RunContext::heartbeat) at least this often while it runs.
    ///
    /// If a heartbeat is missed, the generation is stopped, ends as [`TimedOut`](super::ExitKind::TimedOut), and counts
    /// as a failure.
    pub fn heartbeat(mut self, at_least_every: Duration) -> Self {
        self.options.heartbeat = Some(at_least_every);
        self
    }

    /// Sets how long `start` may take. After that its future is dropped, and the start has failed.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.options.start_timeout = timeout;
        self
    }

    /// Sets how long `run` may continue after it was asked to stop. After that its future is dropped at the await point
    /// where it waits. The host's [`shutdown_timeout`](super::ServiceHostBuilder::shutdown_timeout) may leave less
    /// time.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.options.stop_timeout = timeout;
        self
    }

    /// Sets how long `stop` may take. After that its future is dropped. When the host has stopped, the destructors of
    /// its services have as long again, up to the longest `cleanup_timeout` of the services that are left; after that
    /// they are left behind. The host's [`shutdown_timeout`](super::ServiceHostBuilder::shutdown_timeout) may leave
    /// less time.
    pub fn cleanup_timeout(mut self, timeout: Duration) -> Self {
        self.options.cleanup_timeout = timeout;
        self
    }
}

impl<S: BackgroundService> From<S> for Service {
    fn from(service: S) -> Self {
        Self::new(service)
    }
}

impl_debug!(Service |this| { name: this.name, options: this.options, .. });
