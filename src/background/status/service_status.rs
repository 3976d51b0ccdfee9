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

/// What one service is doing, and how it has fared.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it is doing.
    pub state: ServiceState,
    /// When it entered that state.
    pub since: SystemTime,
    /// Where it runs.
    pub placement: Placement,
    /// Whether the host can't do without it.
    pub is_critical: bool,
    /// How often `start` was called: 0 before the first time.
    pub generation: u64,
    /// How many generations were begun, or are about to be, after a failure (or after it had completed, with
    /// [`Restart::Always`](crate::background::Restart::Always)).
    pub restarts: u64,
    /// How its last generation ended, if one has.
    pub last_exit: Option<Arc<Exit>>,
    /// How the last generation that failed ended, if one has.
    pub last_failure: Option<Arc<Exit>>,
    /// How long its last successful `start` took.
    pub start_duration: Option<Duration>,
    pub(crate) heartbeat: Option<Arc<Heartbeat>>,
    pub(crate) ticker: Option<Arc<dyn TickSource>>,
}

/// What a service is doing.
///
/// ```text
/// Registered ──▶ Starting ──▶ Running ──▶ Stopping ──▶ Stopped | Completed | Failed
///                   ▲                        │
///                   ╰────── BackingOff ◀─────╯   it failed, and is to be restarted
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case", tag = "state"))]
#[non_exhaustive]
pub enum ServiceState {
    /// It waits for the host to start, or for services that it depends on.
    Registered,
    /// Its `start` runs.
    Starting,
    /// Its `run` runs.
    Running {
        /// Whether it is ready to do its part.
        ready: bool,
        /// Why it is not ready, or only partly well, in its own words.
        reason: Option<Arc<str>>,
        /// Whether it says that it is only partly well. That does not change its readiness.
        degraded: bool,
    },
    /// It was told to stop and has not ended, or its `stop` runs.
    Stopping,
    /// It failed and will be started again.
    BackingOff {
        /// How many generations in a row have failed.
        failures: u32,
        /// How long it waits in all. In JSON: seconds.
        #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
        delay: Duration,
    },
    /// It was stopped, or never started.
    Stopped,
    /// It did what it had to do, and is done.
    Completed,
    /// It was given up.
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

    /// Whether it does its part: it runs and is ready, or has completed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, ServiceState::Running { ready: true, .. } | ServiceState::Completed)
    }

    /// Whether it has ended for good: stopped, completed or failed. It is what `task.done()` says in Python.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state, ServiceState::Stopped | ServiceState::Completed | ServiceState::Failed)
    }

    /// How long ago it gave its last [heartbeat](crate::background::RunContext::heartbeat), as of now and not of the
    /// snapshot. `None` where none is expected.
    #[must_use]
    pub fn heartbeat_age(&self) -> Option<Duration> {
        self.heartbeat.as_ref().map(|heartbeat| Instant::now().duration_since(heartbeat.last()))
    }

    /// The calls of a [periodic](crate::background::periodic()) service, as of now and not of the snapshot. `None` for others.
    #[must_use]
    pub fn ticks(&self) -> Option<Arc<TickStatus>> {
        self.ticker.as_ref().map(|ticker| ticker.status())
    }
}

impl fmt::Display for ServiceState {
    /// In a word, with the reason if there is one: `not ready: no connection`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered => f.write_str("registered"),
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
            Self::BackingOff { failures, delay } => write!(f, "backing off for {delay:?} after {failures} failures"),
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
        struct Status<'a> {
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
            ticks: Option<Arc<TickStatus>>,
        }

        let status = Status {
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
