//! [`BuildError`] and [`HostError`].

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::status::{Chain, Exit, ExitKind, ServiceStatus, SharedError, ShutdownReport, Trigger};

/// Why a host can't be built. It says what to change.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// Two services have the same name.
    #[error("two services are named {name:?}: give each a name of its own")]
    DuplicateName {
        /// The name.
        name: Arc<str>,
    },
    /// A name is empty or has a NUL in it, which the name of a thread can't have.
    #[error("a service is named {name:?}: a name is not empty, and holds no NUL character")]
    InvalidName {
        /// The name.
        name: Arc<str>,
    },
    /// A service depends on one that is not there.
    #[error(
        "the service {service:?} depends on {dependency:?}, which the host does not have: add it, or correct its name"
    )]
    UnknownDependency {
        /// The service that depends on it.
        service: Arc<str>,
        /// The name of the one that is missing.
        dependency: Arc<str>,
    },
    /// Services depend on each other in a circle.
    #[error("services depend on each other in a circle, so none of them can start first: {}", .circle.join(" -> "))]
    Cycle {
        /// The names along the circle, the first again at the end.
        circle: Vec<String>,
    },
    /// An option has a value that makes no sense.
    #[error("the service {service:?} has {option} {problem}")]
    InvalidOption {
        /// The name of the service.
        service: Arc<str>,
        /// The name of the option.
        option: &'static str,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
}

/// Why a host has not started, or has ended.
///
/// Its `Debug` is its message with those of its sources, since that is what is printed when `main` returns it.
#[derive(Clone, Error)]
#[non_exhaustive]
pub enum HostError {
    /// A critical service did not start. All that had started were stopped again.
    #[error("the service {service:?} {phase}: {reason}")]
    StartFailed {
        /// The name of the service.
        service: Arc<str>,
        /// What it was doing.
        phase: StartPhase,
        /// How it ended, or what it waited for in vain.
        reason: ExitReason,
        /// How the stop went.
        report: Box<ShutdownReport>,
    },
    /// The services took longer to start than the host's
    /// [`startup_timeout`](super::ServiceHostBuilder::startup_timeout). All were stopped again.
    #[error("the services took too long to start, and were stopped again: {service:?} was not ready")]
    StartTimedOut {
        /// The first service that had not started, or that another one waited for.
        service: Arc<str>,
        /// How the stop went.
        report: Box<ShutdownReport>,
    },
    /// The host was told to stop before all of its services had started.
    #[error("the host was told to stop while its services started: {}", .report.trigger)]
    StoppedWhileStarting {
        /// How the stop went.
        report: Box<ShutdownReport>,
    },
    /// A critical service was given up, and the host has stopped.
    #[error("the service {service:?} was given up: {reason}")]
    GaveUp {
        /// The name of the service.
        service: Arc<str>,
        /// How its last generation ended.
        reason: ExitReason,
        /// How the stop went.
        report: Box<ShutdownReport>,
    },
    /// The server of [`run_until`](super::ServiceHost::run_until) ended with an error, and the host has stopped.
    #[error("the server failed")]
    Server {
        /// Its error.
        source: SharedError,
        /// How the stop went.
        report: Box<ShutdownReport>,
    },
    /// The host was started before. A host runs once: build another one.
    #[error("the host was started before: build another one")]
    AlreadyStarted,
    /// The host was never started, so there is nothing to stop.
    #[error("the host was not started: call start or run_until first")]
    NotStarted,
    /// A service waits for the end of its own host. That has been told to stop; the service has to end instead of waiting.
    #[error("a service waits for the end of its own host: return instead, the host was told to stop")]
    WouldDeadlock,
    /// There is no tokio runtime here for the services to run on.
    #[error("there is no tokio runtime here: start the host within the runtime of the server")]
    NoRuntime,
    /// The thread of the supervisor could not be made.
    #[error("the thread of the supervisor could not be made")]
    Thread {
        /// The error of the operating system.
        source: SharedError,
    },
    /// The [listener for probes](super::ServiceHostBuilder::probe_listener) can't be used.
    #[cfg(feature = "hyper")]
    #[error("the listener for probes can't be used")]
    ProbeListener {
        /// The error of the operating system.
        source: SharedError,
    },
    /// The supervisor is gone, and with it the runtime that it was on.
    #[error("the supervisor is gone: the runtime that it was on has ended before it")]
    SupervisorGone,
}

/// What a service was doing when the start of its host failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartPhase {
    /// It waited for services that it depends on.
    Waiting,
    /// Its [`start`](super::BackgroundService::start) ran.
    Starting,
}

/// How a generation ended, in an error.
#[derive(Clone, Debug)]
pub struct ExitReason {
    kind: Option<ExitKind>,
    dependency: Option<Dependency>,
}

/// A service that was given up, and took another one with it.
#[derive(Clone, Debug)]
struct Dependency {
    name: Arc<str>,
    /// How it failed. `None` if it had not begun, either.
    failure: Option<ExitKind>,
}

impl ExitReason {
    /// How it ended. `None` if it had not begun, because what it depends on was given up.
    #[must_use]
    pub fn kind(&self) -> Option<&ExitKind> {
        self.kind.as_ref()
    }

    /// The name of the service that it depends on and that was given up, if that is why it ended or did not begin.
    #[must_use]
    pub fn dependency(&self) -> Option<&str> {
        self.dependency.as_ref().map(|dependency| &*dependency.name)
    }
}

impl HostError {
    /// The error of a host that has stopped, if it is one. `culprit` is the service that made it stop, and `dependency` the
    /// one because of which it did.
    pub(crate) fn of(
        report: &ShutdownReport,
        culprit: Option<&ServiceStatus>,
        dependency: Option<&ServiceStatus>,
    ) -> Option<Self> {
        let report = Box::new(report.clone());
        let service = culprit.map_or_else(|| "".into(), |culprit| Arc::clone(&culprit.name));
        let kind = |exit: &Arc<Exit>| exit.kind.clone();
        let dependency = dependency.map(|dependency| Dependency {
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

    /// How the stop went, if there was one.
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

    /// What the process should end with: what the [report](ShutdownReport::exit_code) says if the stop was forced or unclean,
    /// 0 if the host was told to stop while it started, and otherwise 1.
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
        fmt::Display::fmt(&Chain(self), f)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Dependency { name, failure }) = &self.dependency else {
            return match &self.kind {
                Some(kind) => kind.fmt(f),
                None => f.write_str("a service that it depends on was given up"),
            };
        };
        write!(f, "{name:?}, on which it depends, was given up")?;
        failure.as_ref().map_or(Ok(()), |failure| write!(f, ": {failure}"))
    }
}

impl fmt::Display for StartPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waited in vain to start",
            Self::Starting => "failed to start",
        })
    }
}
