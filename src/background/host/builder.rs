//! [`ServiceHostBuilder`], the services of a host and its limits.

#[cfg(feature = "hyper")]
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use super::link::Link;
use super::plan::{Plan, plan};
use super::service_host::ServiceHost;
use crate::background::error::BuildError;
use crate::background::placement::Placement;
use crate::background::signals::Signals;
use crate::background::spec::Service;
use crate::background::status::{HostPhase, HostStatus, Lag, Pulse, ServiceState, ServiceStatus, Services};
use crate::background::supervisor::{Edges, Limits, Shell, Supervisor, Unit};

/// How many events are kept for who is slow to take them.
const EVENTS: usize = 1024;

/// Where a host decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Supervision {
    /// On a small thread of its own, so that a server's runtime that is stuck delays neither stop nor deadlines nor probes.
    #[default]
    OwnThread,
    /// In a task of the server's runtime: no thread, and no clock but that of the runtime, which tests may pause. It is
    /// as late as that runtime is. I/O and time have to be enabled there. A signal after the end of the host is not seen.
    ServerRuntime,
}

/// What makes a [`ServiceHost`].
///
/// | option | default |
/// |---|---|
/// | [`startup_timeout`](Self::startup_timeout) | 2 minutes |
/// | [`drain_timeout`](Self::drain_timeout) | 10 seconds |
/// | [`shutdown_timeout`](Self::shutdown_timeout) | 25 seconds |
/// | [`supervision`](Self::supervision) | [`Supervision::OwnThread`] |
/// | [`probe_listener`](Self::probe_listener) (feature `hyper`) | none: probes are answered by the routes of a [web adapter](crate::web) |
/// | [`exit_within`](Self::exit_within) | never |
/// | [`without_signals`](Self::without_signals) | no: [`run_until`](ServiceHost::run_until) stops on SIGTERM and SIGINT, and at once on a second one |
#[derive(Debug)]
#[must_use = "it makes nothing without `build`"]
pub struct ServiceHostBuilder {
    services: Vec<Service>,
    limits: Limits,
    supervision: Supervision,
    signals: Signals,
    exit_within: Option<Duration>,
    #[cfg(feature = "hyper")]
    probes: Option<TcpListener>,
}

impl ServiceHostBuilder {
    pub(super) fn new() -> Self {
        let limits = Limits {
            startup: Duration::from_secs(120),
            drain: Duration::from_secs(10),
            shutdown: Duration::from_secs(25),
        };
        Self {
            services: Vec::new(),
            limits,
            supervision: Supervision::default(),
            signals: Signals::Listen,
            exit_within: None,
            #[cfg(feature = "hyper")]
            probes: None,
        }
    }

    /// Adds a service: a [`BackgroundService`](crate::background::BackgroundService), or a [`Service`] with options.
    pub fn service(mut self, service: impl Into<Service>) -> Self {
        self.services.push(service.into());
        self
    }

    /// How long all services together may take to start. Then the start has failed.
    pub fn startup_timeout(mut self, timeout: Duration) -> Self {
        self.limits.startup = timeout;
        self
    }

    /// How long the server of [`run_until`](ServiceHost::run_until) may take to end after it was told to. Then it is dropped,
    /// and the services are stopped.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.limits.drain = timeout;
        self
    }

    /// How long the whole stop may take, drain included, from its trigger on. All other limits give way to it: at four fifths
    /// of it (and at most 2 seconds before its end) what still runs is dropped, so that there is time for `stop`, and at its
    /// end what is left is left behind. The default fits the 30 seconds that Kubernetes waits before it kills.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.limits.shutdown = timeout;
        self
    }

    /// Where the host decides.
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.supervision = supervision;
        self
    }

    /// Leaves the signals of the process alone.
    pub fn without_signals(mut self) -> Self {
        self.signals = Signals::Ignore;
        self
    }

    /// Ends the process if it is still there so long after the host has stopped, with the exit code of the
    /// [report](crate::background::ShutdownReport::exit_code) or the [error](crate::background::HostError::exit_code).
    ///
    /// What blocks a thread of the server's runtime can't be dropped, so `main` waits for it when it drops the runtime, for as
    /// long as it takes; on a runtime of one thread, [`run_until`](ServiceHost::run_until) does not even return. A thread of
    /// [`Placement::Thread`] or of a blocking service holds nobody up. This is for a `main` that ends with its host. It takes
    /// a supervisor with a [thread of its own](Supervision::OwnThread). Default: the process is waited for.
    pub fn exit_within(mut self, limit: Duration) -> Self {
        self.exit_within = Some(limit);
        self
    }

    /// Answers the [probes](crate::background#probes) on a port of their own, and nothing else.
    ///
    /// They are answered beside the supervisor: with [`Supervision::OwnThread`] on its thread, so also while the server's
    /// runtime is stuck, and with [`Supervision::ServerRuntime`] in tasks of the server's runtime, which must have I/O
    /// and time enabled. They are answered from the beginning of [`start`](ServiceHost::start), so that `/startupz` tells
    /// how it goes, until the host has stopped. Who connects before the start is answered with it. After the end, connections
    /// are refused.
    ///
    /// You bind the port, so that you see at once if it is taken. With port 0 the system picks one:
    /// [`HostHandle::probe_address`](super::HostHandle::probe_address) tells which. Called again, the last listener counts.
    ///
    /// Slow and hostile clients don't hold the host up. A client has 5 seconds to send the head of a request, of 8 KiB at
    /// most, and an idle connection is closed after as long a time. There are 64 connections at most: for one more, the
    /// oldest is closed.
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
    /// let address = host.handle().probe_address().expect("it has a port for probes");
    /// assert_ne!(address.port(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "hyper")]
    pub fn probe_listener(mut self, listener: TcpListener) -> Self {
        self.probes = Some(listener);
        self
    }

    /// Makes the host. Nothing runs yet, and no runtime is needed.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] that says what to change.
    pub fn build(self) -> Result<ServiceHost, BuildError> {
        self.services.iter().try_for_each(check)?;
        let Plan { indices, edges } = plan(&self.services)?;
        let units = units(&self.services, edges);
        let wall = SystemTime::now();
        let statuses = self.services.iter().zip(&units).map(|(service, unit)| status(service, unit, wall));
        let services = Services::new(statuses.collect(), indices);
        let mut runs: Vec<_> = self.services.into_iter().map(|service| service.runs).collect();
        // It was collected where the services were, which are larger.
        runs.shrink_to_fit();

        let (sender, inbox) = mpsc::unbounded_channel();
        let events = broadcast::Sender::new(EVENTS);
        let status = HostStatus {
            phase: HostPhase::Built,
            since: wall,
            has_started: false,
            services: services.clone(),
            lag: Arc::new(Lag::default()),
        };
        let link = Link::new(sender, status, events.downgrade());
        #[cfg(feature = "hyper")]
        let link = link.with_probe_address(self.probes.as_ref().and_then(|probes| probes.local_addr().ok()));
        let link = Arc::new(link);
        let supervisor = Supervisor::new(units, services, self.limits, fastrand::f64);
        let exit_within = self.exit_within;
        let shell = Shell { supervisor, services: runs, link: Arc::clone(&link), events, inbox, exit_within };
        let host = ServiceHost::new(link, shell, self.supervision, self.signals);
        #[cfg(feature = "hyper")]
        let host = host.with_probes(self.probes);
        Ok(host)
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
    let is_blocking = service.runs.is_blocking();
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

fn units(services: &[Service], edges: Vec<Edges>) -> Vec<Unit> {
    let (now, mut edges) = (Instant::now(), edges.into_iter());
    let unit = |service: &Service| {
        let pulse = service.options.heartbeat.map(|_| Arc::new(Pulse::new(now)));
        Unit::new(Arc::clone(&service.options), edges.next().unwrap_or_default(), pulse, now)
    };
    services.iter().map(unit).collect()
}

fn status(service: &Service, unit: &Unit, wall: SystemTime) -> ServiceStatus {
    ServiceStatus {
        name: Arc::clone(&service.name),
        state: ServiceState::Registered,
        since: wall,
        placement: service.options.placement,
        is_critical: service.options.is_critical,
        generation: 0,
        restarts: 0,
        last_exit: None,
        last_failure: None,
        start_duration: None,
        pulse: unit.pulse.clone(),
        ticker: service.ticker.clone().map(|ticker| ticker as _),
    }
}
