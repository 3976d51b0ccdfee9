//! [`Service`], a service with its options, as the builder of a host takes it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::blocking::BlockingService;
use super::generation::{AsyncRunner, BlockingRunner, ServiceRunner};
use super::placement::Placement;
use super::restart::{Backoff, Intensity, Restart};
use super::service::BackgroundService;
use super::status::TickSource;

/// A service and how its host treats it.
///
/// [`ServiceHostBuilder::service`](super::ServiceHostBuilder::service) takes a [`BackgroundService`] as it is, with the
/// defaults below. With other options, or from a closure, it is made by one of these:
///
/// | made by | is |
/// |---|---|
/// | [`Service::new`] | a [`BackgroundService`] |
/// | [`Service::blocking`] | a [`BlockingService`], on a thread of its own |
/// | [`service_fn`](super::service_fn) | an async closure |
/// | [`blocking_fn`](super::blocking_fn) | a closure that blocks, on a thread of its own |
/// | [`periodic`](super::periodic()) | an async closure, called again and again |
/// | [`lifespan`](super::lifespan) | two closures, one before the first request and one after the last |
///
/// | option | default |
/// |---|---|
/// | [`after`](Self::after), [`restart_with`](Self::restart_with) | no dependency |
/// | [`placement`](Self::placement) | [`Placement::Shared`] |
/// | [`restart`](Self::restart) | [`Restart::OnFailure`] |
/// | [`backoff`](Self::backoff) | 1 second, doubled up to 30 seconds, up to half as much again by chance |
/// | [`intensity`](Self::intensity) | 5 restarts in 60 seconds |
/// | [`stable_after`](Self::stable_after) | 30 seconds |
/// | [`degradable`](Self::degradable) | no: the service is critical |
/// | [`manual_ready`](Self::manual_ready) | no: ready when `start` has returned `Ok` |
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
#[must_use = "a service runs only in a host"]
pub struct Service {
    pub(crate) name: Arc<str>,
    pub(crate) runner: Arc<dyn ServiceRunner>,
    pub(crate) needs: Vec<Need>,
    pub(crate) options: ServiceOptions,
    pub(crate) ticker: Option<Arc<dyn TickSource>>,
}

/// A service that another one depends on.
#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) name: Arc<str>,
    pub(crate) restarts_with: bool,
}

/// How a host treats a service.
#[derive(Clone, Debug)]
pub(crate) struct ServiceOptions {
    pub(crate) placement: Placement,
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) intensity: Intensity,
    pub(crate) stable_after: Duration,
    pub(crate) is_critical: bool,
    pub(crate) manual_ready: bool,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) start_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) cleanup_timeout: Duration,
}

impl ServiceOptions {
    pub(crate) fn at(placement: Placement) -> Self {
        Self {
            placement,
            restart: Restart::default(),
            backoff: Backoff::default(),
            intensity: Intensity::default(),
            stable_after: Duration::from_secs(30),
            is_critical: true,
            manual_ready: false,
            heartbeat: None,
            start_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
            cleanup_timeout: Duration::from_secs(2),
        }
    }
}

impl Service {
    /// An async service with the default options.
    pub fn new<S: BackgroundService>(service: S) -> Self {
        Self::named(service.name().into(), service)
    }

    /// The same, for a service whose name is shared already.
    pub(super) fn named<S: BackgroundService>(name: Arc<str>, service: S) -> Self {
        Self::with(name, Arc::new(AsyncRunner(service)), Placement::Shared)
    }

    /// A service that blocks, with the default options.
    pub fn blocking<S: BlockingService>(service: S) -> Self {
        let name = service.name().into();
        Self::with(name, Arc::new(BlockingRunner(service)), Placement::Blocking)
    }

    fn with(name: Arc<str>, runner: Arc<dyn ServiceRunner>, placement: Placement) -> Self {
        Self { name, runner, needs: Vec::new(), options: ServiceOptions::at(placement), ticker: None }
    }

    pub(super) fn ticking(mut self, ticker: Arc<dyn TickSource>) -> Self {
        self.ticker = Some(ticker);
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts after the service of that name is ready for the first time (or completed), and stops before it. Services
    /// that do not depend on each other start and stop at the same time.
    pub fn after(mut self, service: &str) -> Self {
        self.needs.push(Need { name: service.into(), restarts_with: false });
        self
    }

    /// As [`after`](Self::after), and whenever that service is restarted, this one is stopped and begins anew once that one
    /// is ready again. Its own failures are not counted for it. If that one is given up, so is this one.
    pub fn restart_with(mut self, service: &str) -> Self {
        self.needs.push(Need { name: service.into(), restarts_with: true });
        self
    }

    /// Where its futures are polled. [`Placement::Blocking`] is for blocking services, which have no other place.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.options.placement = placement;
        self
    }

    /// After which ends it is started again.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.options.restart = restart;
        self
    }

    /// How long to wait before it is started again.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = backoff;
        self
    }

    /// How many restarts are too many.
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.options.intensity = intensity;
        self
    }

    /// After so long a time of being ready in one generation, the next failure is the first of a row: see [`Backoff`].
    pub fn stable_after(mut self, ready_for: Duration) -> Self {
        self.options.stable_after = ready_for;
        self
    }

    /// The host can do without it: giving it up shows in status and `/readyz?verbose`, and the host goes on. Its first start
    /// may fail, too, and is tried again by its restart policy. Otherwise a service is *critical*: giving it up stops the
    /// host, which then returns an error, and its first start must succeed.
    pub fn degradable(mut self) -> Self {
        self.options.is_critical = false;
        self
    }

    /// Ready only once it has called [`ready`](super::RunContext::ready), in each generation anew. The host's
    /// `start` does not wait for that; services that start [`after`](Self::after) it do.
    pub fn manual_ready(mut self) -> Self {
        self.options.manual_ready = true;
        self
    }

    /// Expects a call of [`heartbeat`](super::RunContext::heartbeat) at least that often while it runs. When one is missed
    /// the generation is stopped, ends as [`TimedOut`](super::ExitKind::TimedOut), and counts as a failure.
    pub fn heartbeat(mut self, at_least_every: Duration) -> Self {
        self.options.heartbeat = Some(at_least_every);
        self
    }

    /// How long `start` may take before it is dropped, and has failed.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.options.start_timeout = timeout;
        self
    }

    /// How long `run` may go on after it was told to stop. Then its future is dropped where it waits. The host's
    /// [`shutdown_timeout`](super::ServiceHostBuilder::shutdown_timeout) may leave it less.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.options.stop_timeout = timeout;
        self
    }

    /// How long `stop` may take before it is dropped.
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

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).field("options", &self.options).finish_non_exhaustive()
    }
}
