//! [`ShutdownReport`], how the shutdown of a host went.

use std::fmt;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::Duration;

use super::exit::{CleanUp, Exit};

/// How the shutdown of a host went, service by service.
///
/// Returning it from `main` makes the process exit with [`exit_code`](Self::exit_code).
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use = "a stop that failed is a report too: return it from `main`, or check `is_clean` or `exit_code`"]
pub struct ShutdownReport {
    pub(crate) trigger: Trigger,
    pub(crate) forced_by: Option<Trigger>,
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::service_status::seconds"))]
    pub(crate) took: Duration,
    pub(crate) server_cut_off: bool,
    pub(crate) services: Arc<[ServiceReport]>,
    pub(crate) unfinished: Arc<[UnfinishedWork]>,
}

/// Work that a host could not wait for, by name: work that continued without its caller, and what a guard, flight or
/// pool that the host [manages](crate::background::ServiceHostBuilder::manage) had admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct UnfinishedWork {
    pub(crate) name: Arc<str>,
    pub(crate) count: usize,
}

/// How the shutdown of one service went.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ServiceReport {
    pub(crate) name: Arc<str>,
    pub(crate) is_critical: bool,
    pub(crate) exit: Option<Arc<Exit>>,
    pub(crate) clean_up: CleanUp,
    pub(crate) is_dropped: bool,
    #[cfg_attr(feature = "serde", serde(serialize_with = "optional_seconds"))]
    pub(crate) took: Option<Duration>,
    pub(crate) generations: u64,
}

/// What caused a host to shut down.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Trigger {
    /// The process received this signal, such as 15 for SIGTERM and 2 for SIGINT.
    Signal(i32),
    /// [`ServiceHost::shutdown`](crate::background::ServiceHost::shutdown) or
    /// [`HostHandle::shutdown`](crate::background::HostHandle::shutdown) was called.
    Requested,
    /// The server of [`run_until`](crate::background::ServiceHost::run_until) ended on its own.
    ServerEnded,
    /// A service requested it with [`shutdown_host`](crate::background::RunContext::shutdown_host).
    #[non_exhaustive]
    Service {
        /// The name of the service.
        name: Arc<str>,
        /// The reason that the service gave.
        reason: Arc<str>,
    },
    /// The host gave up on a critical service.
    #[non_exhaustive]
    GaveUp {
        /// The name of the service.
        name: Arc<str>,
    },
    /// A critical service failed to start.
    #[non_exhaustive]
    StartFailed {
        /// The name of the service.
        name: Arc<str>,
    },
    /// The services took longer to start than
    /// [`startup_timeout`](crate::background::ServiceHostBuilder::startup_timeout).
    StartTimedOut,
    /// The host was dropped.
    Dropped,
}

impl ShutdownReport {
    /// Returns what caused the shutdown.
    #[must_use]
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// Returns what forced the shutdown, if anything did: a second signal, or
    /// [`force_shutdown`](crate::background::HostHandle::force_shutdown).
    #[must_use]
    pub fn forced_by(&self) -> Option<&Trigger> {
        self.forced_by.as_ref()
    }

    /// Returns the time from the trigger to the end of the last service or pool. In JSON: seconds.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Returns `true` if the server was dropped because it took longer than
    /// [`drain_timeout`](crate::background::ServiceHostBuilder::drain_timeout) to end, or than its
    /// [share](crate::background#stopping) of a short `shutdown_timeout`.
    #[must_use]
    pub fn server_cut_off(&self) -> bool {
        self.server_cut_off
    }

    /// Returns the services, in the order in which they were added to the host.
    #[must_use]
    pub fn services(&self) -> &[ServiceReport] {
        &self.services
    }

    /// Returns the work that the host could not wait for. Empty in a clean report.
    #[must_use]
    pub fn unfinished(&self) -> &[UnfinishedWork] {
        &self.unfinished
    }

    /// Returns `true` if every critical service [ended cleanly](ServiceReport::is_clean), the server ended in time, no
    /// work was left [unfinished](Self::unfinished), and the shutdown was not forced.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let clean = |service: &ServiceReport| !service.is_critical || service.is_clean();
        let is_in_time = self.forced_by.is_none() && !self.server_cut_off && self.unfinished.is_empty();
        is_in_time && self.services.iter().all(clean)
    }

    /// Returns the service with this name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceReport> {
        self.services.iter().find(|service| &*service.name == name)
    }

    /// Returns the exit code for the process: 0 if the shutdown [was clean](Self::is_clean), 128 plus the number of the
    /// signal if a signal forced the shutdown (130 for SIGINT and 143 for SIGTERM, as in a shell), and otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.forced_by {
            _ if self.is_clean() => 0,
            Some(Trigger::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(1),
            _ => 1,
        }
    }
}

impl UnfinishedWork {
    /// Returns the name of the guard, flight or pool that the work belongs to.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many pieces of work were left, or dropped before they finished. At least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

impl ServiceReport {
    /// Returns the name of the service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns `true` if the service is critical.
    #[must_use]
    pub fn is_critical(&self) -> bool {
        self.is_critical
    }

    /// Returns how the last generation ended. `None` if the service never started, or stood by when the host stopped.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.exit.as_deref()
    }

    /// Returns how `stop` ended.
    #[must_use]
    pub fn clean_up(&self) -> &CleanUp {
        &self.clean_up
    }

    /// Returns the time from the request to stop until the end of the service, including `stop`. `None` if the service
    /// had already ended on its own. In JSON: seconds.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        self.took
    }

    /// Returns the number of generations.
    #[must_use]
    pub fn generations(&self) -> u64 {
        self.generations
    }

    /// Returns `true` if the service was dropped before the host ended. Its destructor ran to its end, and it holds no
    /// file, port or lock any more.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.is_dropped
    }

    /// Returns `true` if the last generation did not fail, everything that it acquired was released, and the service
    /// [was dropped](Self::is_dropped).
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit.as_ref().is_none_or(|exit| !exit.is_failure()) && self.clean_up.is_clean() && self.is_dropped
    }
}

impl Trigger {
    /// Returns the name of the service that caused the shutdown, if a service did.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Service { name, .. } | Self::GaveUp { name } | Self::StartFailed { name } => Some(name),
            _ => None,
        }
    }
}

impl Termination for ShutdownReport {
    fn report(self) -> ExitCode {
        ExitCode::from(self.exit_code())
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(2) => f.write_str("SIGINT"),
            Self::Signal(15) => f.write_str("SIGTERM"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Requested => f.write_str("shutdown was called"),
            Self::ServerEnded => f.write_str("the server ended"),
            Self::Service { name, reason } => write!(f, "the service {name:?} requested it: {reason}"),
            Self::GaveUp { name } => write!(f, "the host gave up on the service {name:?}"),
            Self::StartFailed { name } => write!(f, "the service {name:?} failed to start"),
            Self::StartTimedOut => f.write_str("the services took too long to start"),
            Self::Dropped => f.write_str("the host was dropped"),
        }
    }
}

#[cfg(feature = "serde")]
fn optional_seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_some(&duration.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}
