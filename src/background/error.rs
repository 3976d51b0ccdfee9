//! [`BuildError`] and [`HostError`], with the reason in the latter, [`ExitReason`].

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::status::{Exit, ExitKind, ServiceStatus, SharedError, ShutdownReport, Trigger};
use crate::error_chain::ErrorChain;

/// Why a host cannot be built. The message says what to change.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// Two services have the same name.
    #[error("services {} and {} are both named {name:?}: give each service a unique name", .first + 1, .second + 1)]
    #[non_exhaustive]
    DuplicateName {
        /// The name.
        name: Arc<str>,
        /// The index of the first of them, in the order in which the services were added to the host.
        first: usize,
        /// The index of the second.
        second: usize,
    },
    /// A guard, flight or pool that the host manages shares its name with another one or with a service.
    #[error("something the host manages shares the name {name:?}: give each a unique name")]
    #[non_exhaustive]
    SharedName {
        /// The name.
        name: Arc<str>,
    },
    /// A name is empty or contains a NUL character, which the name of a thread cannot contain.
    #[error("invalid service name {name:?}: a name must not be empty or contain a NUL character")]
    #[non_exhaustive]
    InvalidName {
        /// The name.
        name: Arc<str>,
    },
    /// A service depends on another one that was not added to the host.
    #[error(
        "the service {service:?} depends on {dependency:?}, which does not exist: add that service, or correct its name"
    )]
    #[non_exhaustive]
    UnknownDependency {
        /// The name of the dependent service.
        service: Arc<str>,
        /// The name of the missing service.
        dependency: Arc<str>,
    },
    /// Services depend on each other in a cycle.
    #[error("services depend on each other in a cycle, so none of them can start first: {}", .cycle.join(" -> "))]
    #[non_exhaustive]
    Cycle {
        /// The names along the cycle. The first one is repeated at the end.
        cycle: Vec<String>,
    },
    /// An option has an invalid value.
    #[error("invalid {option} for the service {service:?}: {problem}")]
    #[non_exhaustive]
    InvalidOption {
        /// The name of the service.
        service: Arc<str>,
        /// The name of the option.
        option: &'static str,
        /// What is wrong with the value, and what to do.
        problem: &'static str,
    },
}

impl BuildError {
    /// Returns the name of the service, or of the managed guard, flight or pool, that is wrong. `None` for a
    /// [`Cycle`](Self::Cycle), which has several.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::DuplicateName { name, .. } | Self::InvalidName { name } | Self::SharedName { name } => Some(name),
            Self::UnknownDependency { service, .. } | Self::InvalidOption { service, .. } => Some(service),
            Self::Cycle { .. } => None,
        }
    }

    /// Returns the option that is wrong: the name of the method that sets it, such as `"start_timeout"`. `None` if the
    /// names or dependencies of services are wrong.
    #[must_use]
    pub fn option(&self) -> Option<&str> {
        match self {
            Self::InvalidOption { option, .. } => Some(option),
            _ => None,
        }
    }
}

/// Why a host did not start, or why it stopped.
///
/// Its `Debug` output is its message followed by those of its sources, since that is printed when `main` returns the
/// error.
#[derive(Clone, Error)]
#[non_exhaustive]
pub enum HostError {
    /// A critical service did not start. All started services were stopped again.
    #[error("the service {service:?} {phase}: {reason}")]
    #[non_exhaustive]
    StartFailed {
        /// The name of the service.
        service: Arc<str>,
        /// What the service was doing.
        phase: StartPhase,
        /// How the service ended, or what it waited for.
        reason: ExitReason,
        /// How the shutdown went.
        report: Box<ShutdownReport>,
    },
    /// The services took longer to start than the host's
    /// [`startup_timeout`](super::ServiceHostBuilder::startup_timeout). All started services were stopped again.
    #[error("the services did not start in time and were stopped again: {service:?} was not ready")]
    #[non_exhaustive]
    StartTimedOut {
        /// The name of the first service that had not started, or that another one waited for.
        service: Arc<str>,
        /// How the shutdown went.
        report: Box<ShutdownReport>,
    },
    /// The host was stopped before all of its services had started.
    #[error("the host was stopped while its services were starting: {}", .report.trigger)]
    #[non_exhaustive]
    StoppedWhileStarting {
        /// How the shutdown went.
        report: Box<ShutdownReport>,
    },
    /// The host gave up on a critical service and has stopped.
    #[error("the host gave up on the service {service:?}: {reason}")]
    #[non_exhaustive]
    GaveUp {
        /// The name of the service.
        service: Arc<str>,
        /// How its last generation ended.
        reason: ExitReason,
        /// How the shutdown went.
        report: Box<ShutdownReport>,
    },
    /// The server of [`run_until`](super::ServiceHost::run_until) returned an error, and the host has stopped.
    #[error("the server failed")]
    #[non_exhaustive]
    Server {
        /// The error of the server.
        source: SharedError,
        /// How the shutdown went.
        report: Box<ShutdownReport>,
    },
    /// The host was already started. A host runs only once.
    #[error("the host was already started: build a new one")]
    AlreadyStarted,
    /// The host was never started, so there is nothing to stop.
    #[error("the host was not started: call start or run_until first")]
    NotStarted,
    /// A service waits for the end of its own host. The host is stopping, so the service has to return instead of
    /// waiting.
    #[error("a service cannot wait for the end of its own host: return instead, the host is stopping")]
    WouldDeadlock,
    /// The host was started outside of a tokio runtime.
    #[error("no tokio runtime: start the host inside the server's runtime")]
    NoRuntime,
    /// The supervisor's thread could not be created.
    #[error("the supervisor's thread could not be created")]
    #[non_exhaustive]
    Thread {
        /// The error of the operating system.
        source: SharedError,
    },
    /// The [listener for probes](super::ServiceHostBuilder::probe_listener) could not be used.
    #[cfg(feature = "probe-listener")]
    #[error("the listener for probes could not be used")]
    #[non_exhaustive]
    ProbeListener {
        /// The error of the operating system.
        source: SharedError,
    },
    /// The supervisor's runtime was shut down before the host had stopped.
    #[error("the supervisor was dropped: its runtime was shut down before the host had stopped")]
    SupervisorGone,
}

/// What a service was doing when the start of its host failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartPhase {
    /// It waited for its dependencies.
    Waiting,
    /// [`start`](super::BackgroundService::start) was running.
    Starting,
}

/// The reason in a [`HostError`]: how a generation ended, or which dependency failed.
#[derive(Clone, Debug)]
pub struct ExitReason {
    kind: Option<ExitKind>,
    dependency: Option<FailedDependency>,
}

/// A dependency that the host gave up on, so that it also gave up on the dependent service.
#[derive(Clone, Debug)]
struct FailedDependency {
    name: Arc<str>,
    /// How the dependency failed. `None` if it had not begun either.
    failure: Option<ExitKind>,
}

impl ExitReason {
    /// Returns how the last generation ended. `None` if the service had not begun, because the host gave up on a
    /// dependency.
    #[must_use]
    pub fn kind(&self) -> Option<&ExitKind> {
        self.kind.as_ref()
    }

    /// Returns the name of the dependency that the host gave up on, if that is why the service ended or did not begin.
    #[must_use]
    pub fn dependency(&self) -> Option<&str> {
        self.dependency.as_ref().map(|dependency| &*dependency.name)
    }
}

impl HostError {
    /// Returns the error of a host that has stopped, if its trigger is an error. `culprit` is the service that caused
    /// the stop, and `dependency` is the dependency that caused `culprit` to fail.
    pub(crate) fn from_report(
        report: &ShutdownReport,
        culprit: Option<&ServiceStatus>,
        dependency: Option<&ServiceStatus>,
    ) -> Option<Self> {
        let report = Box::new(report.clone());
        let service = culprit.map_or_else(|| "".into(), |culprit| Arc::clone(&culprit.name));
        let kind = |exit: &Arc<Exit>| exit.kind.clone();
        let dependency = dependency.map(|dependency| FailedDependency {
            name: Arc::clone(&dependency.name),
            failure: dependency.last_failure.as_ref().map(kind),
        });
        let kind = culprit.and_then(|culprit| culprit.last_exit.as_ref().map(kind));
        let reason = ExitReason { kind, dependency };
        match report.trigger {
            Trigger::StartFailed { .. } => {
                let phase = if reason.kind.is_some() { StartPhase::Starting } else { StartPhase::Waiting };
                Some(Self::StartFailed { service, phase, reason, report })
            }
            Trigger::GaveUp { .. } => Some(Self::GaveUp { service, reason, report }),
            Trigger::StartTimedOut => Some(Self::StartTimedOut { service, report }),
            _ => None,
        }
    }

    /// Returns the name of the service that caused the error, if a service did.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::StartFailed { service, .. } | Self::StartTimedOut { service, .. } | Self::GaveUp { service, .. } => {
                Some(service)
            }
            _ => None,
        }
    }

    /// Returns the report of the shutdown, if there was one.
    #[must_use]
    pub fn report(&self) -> Option<&ShutdownReport> {
        match self {
            Self::StartFailed { report, .. }
            | Self::StartTimedOut { report, .. }
            | Self::StoppedWhileStarting { report }
            | Self::GaveUp { report, .. }
            | Self::Server { report, .. } => Some(report),
            _ => None,
        }
    }

    /// Returns the exit code for the process: that of the [report](ShutdownReport::exit_code) if the shutdown was
    /// forced or unclean, 0 if the host was stopped while it was starting, and otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::StoppedWhileStarting { report } => report.exit_code(),
            error => error.report().map_or(1, |report| report.exit_code().max(1)),
        }
    }
}

impl fmt::Debug for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ErrorChain(self), f)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(FailedDependency { name, failure }) = &self.dependency else {
            return match &self.kind {
                Some(kind) => kind.fmt(f),
                None => f.write_str("the host gave up on a dependency"),
            };
        };
        write!(f, "the host gave up on its dependency {name:?}")?;
        failure.as_ref().map_or(Ok(()), |failure| write!(f, ": {failure}"))
    }
}

impl fmt::Display for StartPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "could not begin to start",
            Self::Starting => "failed to start",
        })
    }
}
