//! [`ServiceHostBuilder`], the services of a host and its timeouts.

use std::collections::{HashMap, HashSet};
#[cfg(feature = "probe-listener")]
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use super::dependency_plan::DependencyPlan;
use super::service_host::ServiceHost;
use crate::background::control::{DropSignal, HostShared};
use crate::background::error::BuildError;
use crate::background::host_watch::HostWatch;
use crate::background::placement::Placement;
use crate::background::signals::Signals;
use crate::background::spec::Service;
use crate::background::status::{Heartbeat, HostPhase, HostStatus, ManagedList, ServiceStatus};
use crate::background::supervisor::{HostTimeouts, ServiceSlot, Supervisor, SupervisorTask, WorkDrain};
use crate::managed::Managed;
use crate::watch::Watch;

/// How many events are kept for a slow subscriber.
const EVENTS: usize = 1024;

/// Where the supervisor of a host runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Supervision {
    /// On a small thread of its own, so that a stuck server runtime delays neither a stop nor deadlines nor probes. The
    /// thread has a clock of its own: do not pause the clock of the server's runtime in a test, but use `ServerRuntime`
    /// there. A paused clock jumps ahead while its runtime waits for the thread, and periodic services make many calls
    /// in no time.
    #[default]
    OwnThread,
    /// In a task of the server's runtime. The task needs no thread, and uses only the clock of the runtime, which tests
    /// may pause. When the runtime is late, the supervisor is late too. I/O and time must be enabled on the runtime. A
    /// signal that arrives after the end of the host is not handled.
    ServerRuntime,
}

/// Builds a [`ServiceHost`].
///
/// | option | default |
/// |---|---|
/// | [`startup_timeout`](Self::startup_timeout) | 2 minutes |
/// | [`drain_timeout`](Self::drain_timeout) | 10 seconds |
/// | [`shutdown_timeout`](Self::shutdown_timeout) | 25 seconds |
/// | [`supervision`](Self::supervision) | [`Supervision::OwnThread`] |
/// | [`probe_listener`](Self::probe_listener) (feature `probe-listener`) | none |
/// | [`exit_within`](Self::exit_within) | never |
/// | [`watch`](Self::watch) | the watch that the server's runtime has, or a new one with a threshold of 100 ms |
/// | [`without_signals`](Self::without_signals) | signals are handled |
///
/// Without a probe listener, the routes of a [web adapter](crate::web) answer the probes. With signals,
/// [`run_until`](ServiceHost::run_until) stops on SIGTERM and SIGINT, and stops immediately on a second one.
#[derive(Debug)]
#[must_use = "a builder does nothing without `build`"]
pub struct ServiceHostBuilder {
    services: Vec<Service>,
    managed: ManagedList,
    timeouts: HostTimeouts,
    supervision: Supervision,
    signals: Signals,
    exit_within: Option<Duration>,
    watch: HostWatch,
    #[cfg(feature = "probe-listener")]
    probes: Option<TcpListener>,
}

impl ServiceHostBuilder {
    pub(super) fn new() -> Self {
        let timeouts = HostTimeouts {
            startup: Duration::from_secs(120),
            drain: Duration::from_secs(10),
            shutdown: Duration::from_secs(25),
        };
        Self {
            services: Vec::new(),
            managed: ManagedList::default(),
            timeouts,
            supervision: Supervision::default(),
            signals: Signals::Listen,
            exit_within: None,
            watch: HostWatch::Own,
            #[cfg(feature = "probe-listener")]
            probes: None,
        }
    }

    /// Adds a service: a [`BackgroundService`](crate::background::BackgroundService), or a [`Service`] with options.
    pub fn service(mut self, service: impl Into<Service>) -> Self {
        self.services.push(service.into());
        self
    }

    /// Adds a guard, flight or pool that the host closes and drains while it stops, and shows in its status.
    ///
    /// The host closes guards and flights when the server has ended, or shortly before the server's time is up, so that
    /// requests that still wait get a 503. It then waits for the work that they admitted. The
    /// host closes pools when the services have stopped. The host waits for work without a caller in any case. The
    /// [report](crate::background::ShutdownReport::unfinished) names the work that did not end in time, and is then not
    /// clean.
    pub fn manage(mut self, managed: impl Managed) -> Self {
        self.managed.0.push(Arc::new(managed));
        self
    }

    /// Sets how long all services together may take to start. After that, the start has failed.
    pub fn startup_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.startup = timeout;
        self
    }

    /// Sets how long the server of [`run_until`](ServiceHost::run_until) may take to end once the stop has begun. After
    /// that, the server is dropped. The host then waits as long again, for the work of its guards and for work without
    /// a caller, before it stops the services. With a short [`shutdown_timeout`](Self::shutdown_timeout), both have
    /// less time.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.drain = timeout;
        self
    }

    /// Sets how long the whole stop may take, from its trigger, including the drain.
    ///
    /// This timeout overrides all other timeouts, and [each phase has its share](crate::background#stopping) of it. At
    /// four fifths of the timeout, or 2 seconds before its end if that is later, the host asks all services to stop
    /// that it has not asked yet, and drops those that it has, so that there is time for `stop`. At the end of the
    /// timeout, the host leaves behind whatever is still running. The default fits in the 30 seconds that Kubernetes
    /// waits before it kills a container.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.shutdown = timeout;
        self
    }

    /// Sets where the supervisor of the host runs.
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.supervision = supervision;
        self
    }

    /// Makes the host leave the process's signals alone.
    pub fn without_signals(mut self) -> Self {
        self.signals = Signals::Ignore;
        self
    }

    /// Ends the process if it is still running this long after the host has stopped, with the exit code of the
    /// [report](crate::background::ShutdownReport::exit_code) or the [error](crate::background::HostError::exit_code).
    ///
    /// Code that blocks a thread of the server's runtime can't be dropped. When `main` drops the runtime, the runtime
    /// waits until that code returns, however long that takes. On a runtime with one thread,
    /// [`run_until`](ServiceHost::run_until) does not even return. A thread of [`Placement::Thread`] or of a blocking
    /// service delays nothing. This option is for a `main` that ends with its host, and takes effect only with a
    /// supervisor on a [thread of its own](Supervision::OwnThread). Default: the host never ends the process.
    pub fn exit_within(mut self, limit: Duration) -> Self {
        self.exit_within = Some(limit);
        self
    }

    /// Answers the [probes](crate::background#probes) on a port of their own. The port serves nothing else.
    ///
    /// With [`Supervision::OwnThread`] the probes are answered on the supervisor's thread, so they work while the
    /// server's runtime is stuck. With [`Supervision::ServerRuntime`] they are answered in tasks of the server's
    /// runtime, which must have I/O and time enabled. The port answers from the beginning of
    /// [`start`](ServiceHost::start), so that `/startupz` shows the progress, until the host has stopped. A client that
    /// connects before the start is answered once the start begins. After the end, connections are refused.
    ///
    /// You bind the port, so that you notice immediately if the port is taken. With port 0 the system picks one, which
    /// [`HostHandle::probe_address`](super::HostHandle::probe_address) returns. If this method is called again, the
    /// last listener is used.
    ///
    /// Slow or hostile clients do not delay the host. A client has 5 seconds to send the head of a request, which may
    /// be up to 8 KiB long, and an idle connection is closed after the same time. At most 64 connections are open: a
    /// further connection closes the oldest one.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use onelane::background::{ServiceHost, service_fn};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let host = ServiceHost::builder()
    ///     .service(service_fn("refresher", |cx| async move { Ok(cx.stopping().await) }))
    ///     .probe_listener(TcpListener::bind("127.0.0.1:0")?)
    ///     .build()?;
    /// let address = host.handle().probe_address().expect("the host has a probe listener");
    /// assert_ne!(address.port(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "probe-listener")]
    pub fn probe_listener(mut self, listener: TcpListener) -> Self {
        self.probes = Some(listener);
        self
    }

    /// Sets the watch that reports the blocked workers of the server's runtime. The host then starts none of its own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use onelane::ServiceHost;
    /// use onelane::watch::Watch;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let watch = Watch::builder().threshold(Duration::from_millis(20)).build()?;
    /// let host = ServiceHost::builder().watch(&watch).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(mut self, watch: &Watch) -> Self {
        self.watch = HostWatch::Shared(watch.clone());
        self
    }

    /// Runs the host without a watch. [`HostStatus::runtime_lag`] is then 0, and [`HostStatus::blocked`] is empty.
    pub fn without_watch(mut self) -> Self {
        self.watch = HostWatch::None;
        self
    }

    /// Builds the host. Nothing runs yet, and no runtime is needed.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that says what to change.
    pub fn build(self) -> Result<ServiceHost, BuildError> {
        self.services.iter().try_for_each(check)?;
        let DependencyPlan { indices, dependencies } = DependencyPlan::new(&self.services)?;
        check_names(&self.managed.0, &indices)?;
        self.services.iter().try_for_each(|service| check_guard(service, &self.managed.0))?;
        let (now, since) = (Instant::now(), SystemTime::now());
        let (mut slots, mut runners) = (Vec::new(), Vec::new());
        for (service, dependencies) in self.services.into_iter().zip(dependencies) {
            let Service { name, runner, options, ticker, .. } = service;
            let heartbeat = options.heartbeat.map(|_| Arc::new(Heartbeat::new(now)));
            let (placement, is_critical) = (options.placement, options.is_critical);
            let status = ServiceStatus::registered(name, placement, is_critical, heartbeat, ticker, since);
            slots.push(ServiceSlot::new(options, dependencies, status, now));
            runners.push(runner);
        }

        let (sender, inbox) = mpsc::unbounded_channel();
        let events = broadcast::Sender::new(EVENTS);
        let status = HostStatus {
            phase: HostPhase::Built,
            since,
            has_started: false,
            services: slots.iter().map(ServiceSlot::status).collect(),
            indices: Arc::new(indices),
            watch: None,
            managed: self.managed.clone(),
        };
        let shared = HostShared::new(sender, status, events.downgrade());
        #[cfg(feature = "probe-listener")]
        let shared = shared.with_probe_address(self.probes.as_ref().and_then(|probes| probes.local_addr().ok()));
        let shared = Arc::new(shared);
        for (id, runner) in (0..).zip(&runners) {
            runner.signal_drop(DropSignal::new(id, Arc::clone(&shared)));
        }
        let supervisor = Supervisor::new(slots, self.timeouts, crate::random::fraction);
        let task = SupervisorTask {
            supervisor,
            runners,
            shared: Arc::clone(&shared),
            events,
            work: WorkDrain::new(self.managed),
            inbox,
            exit_within: self.exit_within,
            watch: self.watch,
        };
        Ok(ServiceHost {
            shared,
            task: Mutex::new(Some(task)),
            supervision: self.supervision,
            signals: self.signals,
            #[cfg(feature = "probe-listener")]
            probes: Mutex::new(self.probes),
        })
    }
}

fn check(service: &Service) -> Result<(), BuildError> {
    let (name, options) = (&service.name, &service.options);
    if name.is_empty() || name.contains('\0') {
        return Err(BuildError::InvalidName { name: Arc::clone(name) });
    }
    let invalid = |option, problem| Err(BuildError::InvalidOption { service: Arc::clone(name), option, problem });
    if options.heartbeat == Some(Duration::ZERO) {
        return invalid("heartbeat", "zero is always missed: remove it to expect no heartbeat");
    }
    if let Some(ticker) = &service.ticker {
        if let Some((option, problem)) = ticker.problem() {
            return invalid(option, problem);
        }
        if options.heartbeat.is_some() {
            return invalid("heartbeat", "a periodic service sends no heartbeats: use Every::tick_timeout");
        }
    }
    if options.start_timeout.is_zero() {
        return invalid("start_timeout", "no service starts in zero time: the default is 30 seconds");
    }
    let is_blocking = service.runner.is_blocking();
    if is_blocking != (options.placement == Placement::Blocking) {
        let problem = if is_blocking {
            "a blocking service always has its own thread: remove it"
        } else {
            "Blocking is for blocking services: use Service::blocking, or Placement::Thread"
        };
        return invalid("placement", problem);
    }
    Ok(())
}

/// Checks that the guard of a service can admit one process at a time, and that the host does not manage the guard: it
/// would wait for the service's permit before it stops the service.
fn check_guard(service: &Service, managed: &[Arc<dyn Managed>]) -> Result<(), BuildError> {
    let Some(guard) = &service.options.guard else { return Ok(()) };
    let invalid =
        |problem| Err(BuildError::InvalidOption { service: Arc::clone(&service.name), option: "guard", problem });
    if let Some(problem) = guard.problem() {
        return invalid(problem);
    }
    if managed.iter().any(|managed| managed.name() == guard.name()) {
        let problem = "the host manages this guard, and would wait for the service before it stops the service: \
                       give the service a guard of its own, or remove `manage`";
        return invalid(problem);
    }
    Ok(())
}

/// Checks that no two of the host's services, guards, flights and pools share a name.
fn check_names(managed: &[Arc<dyn Managed>], services: &HashMap<Arc<str>, u32>) -> Result<(), BuildError> {
    let mut seen = HashSet::new();
    for managed in managed {
        let name = managed.name();
        if !seen.insert(name) || services.contains_key(name) {
            return Err(BuildError::SharedName { name: name.into() });
        }
    }
    Ok(())
}
