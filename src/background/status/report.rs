//! [`ShutdownReport`], how the stop of a host went.

use std::fmt;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::Duration;

use super::exit::{CleanUp, Exit};

/// How a host has stopped, service by service.
///
/// It can be returned from `main`, whose exit code is then [`exit_code`](Self::exit_code).
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ShutdownReport {
    /// What made it stop.
    pub trigger: Trigger,
    /// What forced the stop, if anything did: the second signal, or
    /// [`force_shutdown`](crate::background::HostHandle::force_shutdown).
    pub forced_by: Option<Trigger>,
    /// The time from the trigger to the end of the last service. In JSON: seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::service_status::seconds"))]
    pub took: Duration,
    /// Whether the server was dropped, because it took longer than
    /// [`drain_timeout`](crate::background::ServiceHostBuilder::drain_timeout) to end.
    pub server_cut_off: bool,
    /// The services, in the order in which the host was given them.
    pub services: Arc<[ServiceReport]>,
}

/// How one service has stopped.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ServiceReport {
    /// Its name.
    pub name: Arc<str>,
    /// Whether the host could not do without it.
    pub is_critical: bool,
    /// How its last generation ended. `None` if it never started.
    pub exit: Option<Arc<Exit>>,
    /// What became of its `stop`.
    pub clean_up: CleanUp,
    /// The time from the moment when it was told to stop to its end, with its `stop`. `None` if it had ended by itself
    /// before. In JSON: seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds_if_any"))]
    pub took: Option<Duration>,
    /// How many generations there were.
    pub generations: u64,
}

/// What made a host stop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Trigger {
    /// The process received this signal, such as 15 for SIGTERM and 2 for SIGINT.
    Signal(i32),
    /// [`ServiceHost::shutdown`](crate::background::ServiceHost::shutdown), or that of a handle, was called.
    Requested,
    /// The server of [`run_until`](crate::background::ServiceHost::run_until) ended by itself.
    ServerEnded,
    /// A service asked for it.
    Service {
        /// The name of the service.
        name: Arc<str>,
        /// The reason it gave.
        reason: Arc<str>,
    },
    /// A critical service was given up.
    GaveUp {
        /// The name of the service.
        name: Arc<str>,
    },
    /// A critical service failed to start.
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
    /// Whether every critical service has ended as it should, and released what it held, and nothing was forced.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let clean = |service: &ServiceReport| !service.is_critical || service.is_clean();
        self.forced_by.is_none() && !self.server_cut_off && self.services.iter().all(clean)
    }

    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceReport> {
        self.services.iter().find(|service| &*service.name == name)
    }

    /// What the process should end with: 0 if all [is clean](Self::is_clean), 128 and the signal's number if one forced the
    /// stop, as a shell counts (130 after SIGINT, 143 after SIGTERM), and otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.forced_by {
            _ if self.is_clean() => 0,
            Some(Trigger::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(1),
            _ => 1,
        }
    }
}

impl ServiceReport {
    /// Whether it ended as it should, and released what it held.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit.as_ref().is_none_or(|exit| !exit.is_failure()) && self.clean_up.is_clean()
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
            Self::Service { name, reason } => write!(f, "the service {name:?} asked for it: {reason}"),
            Self::GaveUp { name } => write!(f, "the service {name:?} was given up"),
            Self::StartFailed { name } => write!(f, "the service {name:?} failed to start"),
            Self::StartTimedOut => f.write_str("the services took too long to start"),
            Self::Dropped => f.write_str("the host was dropped"),
        }
    }
}

#[cfg(feature = "serde")]
fn seconds_if_any<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_some(&duration.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}
