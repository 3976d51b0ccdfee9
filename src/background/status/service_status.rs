//! [`ServiceStatus`], one service in a [`HostStatus`](super::HostStatus).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::exit::Exit;
use super::heartbeat::Heartbeat;
use super::tick_source::TickSource;
use super::tick_status::TickStatus;
use crate::background::placement::Placement;
use crate::rounded::rounded;

/// The state of one service, with its restarts and failures so far.
#[derive(Clone, Debug)]
pub struct ServiceStatus {
    pub(crate) name: Arc<str>,
    pub(crate) state: ServiceState,
    pub(crate) since: SystemTime,
    pub(crate) placement: Placement,
    pub(crate) is_critical: bool,
    pub(crate) generation: u64,
    pub(crate) restarts: u64,
    pub(crate) last_exit: Option<Arc<Exit>>,
    pub(crate) last_failure: Option<Arc<Exit>>,
    pub(crate) start_duration: Option<Duration>,
    pub(crate) heartbeat: Option<Arc<Heartbeat>>,
    pub(crate) ticker: Option<Arc<dyn TickSource>>,
}

/// What a service is doing.
///
/// ```text
/// Registered ──▶ Starting ──▶ Running ──▶ Stopping ──▶ Stopped | Completed | Failed
///                   ▲                        │
///                   ├────── BackingOff ◀─────┤   after a failure
///                   ╰─────── Standby ◀───────╯   with a guard, before each start
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case", tag = "state"))]
#[non_exhaustive]
pub enum ServiceState {
    /// Waits for the host to start, or for services that it depends on.
    Registered,
    /// The service waits for the permit of its [guard](super::super::Service::guard): another process is the leader, or
    /// the guard's store does not answer.
    #[non_exhaustive]
    Standby {
        /// Why the last attempt to acquire the permit failed, if it did.
        reason: Option<Arc<str>>,
    },
    /// `start` is running.
    Starting,
    /// `run` is running.
    #[non_exhaustive]
    Running {
        /// `true` if the service is ready.
        ready: bool,
        /// The reason that the service gave for not being ready, or for being degraded.
        reason: Option<Arc<str>>,
        /// `true` if the service reported that it is degraded. This does not affect its readiness.
        degraded: bool,
    },
    /// The service was asked to stop and has not ended, or `stop` is running.
    Stopping,
    /// The service failed, or completed with `Restart::Always`, and waits to be restarted.
    #[non_exhaustive]
    BackingOff {
        /// How many generations in a row have failed.
        failures: u32,
        /// The whole delay before the restart. In JSON: seconds.
        #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
        delay: Duration,
    },
    /// The service was stopped, or never started.
    Stopped,
    /// The service finished its work.
    Completed,
    /// The host gave up on the service.
    Failed,
}

impl ServiceStatus {
    /// Returns the status of a service that has not started.
    pub(crate) fn registered(
        name: Arc<str>,
        placement: Placement,
        is_critical: bool,
        heartbeat: Option<Arc<Heartbeat>>,
        ticker: Option<Arc<dyn TickSource>>,
        since: SystemTime,
    ) -> Self {
        Self {
            name,
            state: ServiceState::Registered,
            since,
            placement,
            is_critical,
            generation: 0,
            restarts: 0,
            last_exit: None,
            last_failure: None,
            start_duration: None,
            heartbeat,
            ticker,
        }
    }

    /// Returns the name of the service, which is unique in its host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the service is doing.
    #[must_use]
    pub fn state(&self) -> &ServiceState {
        &self.state
    }

    /// Returns when the service entered this state.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Returns where the service runs.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Returns `true` if the service is critical: the host stops when it gives up on the service.
    #[must_use]
    pub fn is_critical(&self) -> bool {
        self.is_critical
    }

    /// Returns how many generations have begun: 0 before the first call of `start`.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns how many restarts have begun or are pending: after a failure, or, with
    /// [`Restart::Always`](crate::background::Restart::Always), after the service completed.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Returns how the last generation ended, if one has.
    #[must_use]
    pub fn last_exit(&self) -> Option<&Exit> {
        self.last_exit.as_deref()
    }

    /// Returns how the last failed generation ended, if one has.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Exit> {
        self.last_failure.as_deref()
    }

    /// Returns how long the last successful `start` took, if one has succeeded.
    #[must_use]
    pub fn start_duration(&self) -> Option<Duration> {
        self.start_duration
    }

    /// Returns `true` if the service is running and ready, stands by, or has completed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        use ServiceState::{Completed, Running, Standby};
        matches!(self.state, Running { ready: true, .. } | Standby { .. } | Completed)
    }

    /// Returns `true` if the service has ended for good: stopped, completed or failed. The method corresponds to
    /// `task.done()` in Python.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state, ServiceState::Stopped | ServiceState::Completed | ServiceState::Failed)
    }

    /// Returns the time since the last [heartbeat](crate::background::RunContext::heartbeat), or `None` if the service
    /// is not expected to send any. The value is current, not as old as this snapshot.
    #[must_use]
    pub fn heartbeat_age(&self) -> Option<Duration> {
        self.heartbeat.as_ref().map(|heartbeat| Instant::now().duration_since(heartbeat.last()))
    }

    /// Returns the calls of a [periodic](crate::background::periodic()) service, or `None` for any other service. The
    /// value is current, not as old as this snapshot.
    #[must_use]
    pub fn ticks(&self) -> Option<TickStatus> {
        self.ticker.as_ref().map(|ticker| ticker.status())
    }
}

impl fmt::Display for ServiceState {
    /// Writes the state, followed by the reason if there is one: `not ready: no connection`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered => f.write_str("registered"),
            Self::Standby { reason } => {
                f.write_str("standby")?;
                reason.iter().try_for_each(|reason| write!(f, ": {reason}"))
            }
            Self::Starting => f.write_str("starting"),
            Self::Running { ready, reason, degraded } => {
                f.write_str(match (ready, degraded) {
                    (false, _) => "not ready",
                    (true, true) => "degraded",
                    (true, false) => "running",
                })?;
                reason.iter().try_for_each(|reason| write!(f, ": {reason}"))
            }
            Self::Stopping => f.write_str("stopping"),
            Self::BackingOff { failures, delay } => {
                write!(f, "backing off for {:?} after {failures} failures", rounded(*delay))
            }
            Self::Stopped => f.write_str("stopped"),
            Self::Completed => f.write_str("completed"),
            Self::Failed => f.write_str("failed"),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ServiceStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::Serialize;

        #[derive(Serialize)]
        struct ServiceStatusFields<'a> {
            name: &'a str,
            #[serde(flatten)]
            state: &'a ServiceState,
            #[serde(serialize_with = "seconds_since_1970")]
            since: SystemTime,
            placement: Placement,
            is_critical: bool,
            generation: u64,
            restarts: u64,
            last_exit: Option<&'a Exit>,
            last_failure: Option<&'a Exit>,
            start_seconds: Option<f64>,
            heartbeat_age_seconds: Option<f64>,
            ticks: Option<TickStatus>,
        }

        let status = ServiceStatusFields {
            name: &self.name,
            state: &self.state,
            since: self.since,
            placement: self.placement,
            is_critical: self.is_critical,
            generation: self.generation,
            restarts: self.restarts,
            last_exit: self.last_exit.as_deref(),
            last_failure: self.last_failure.as_deref(),
            start_seconds: self.start_duration.map(|duration| duration.as_secs_f64()),
            heartbeat_age_seconds: self.heartbeat_age().map(|age| age.as_secs_f64()),
            ticks: self.ticks(),
        };
        status.serialize(serializer)
    }
}

#[cfg(feature = "serde")]
pub(crate) fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(feature = "serde")]
pub(crate) fn seconds_since_1970<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_f64(since.as_secs_f64())
}
