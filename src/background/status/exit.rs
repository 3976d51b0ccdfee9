//! [`Exit`], how a generation of a service ended.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error_chain::ErrorChain;
use crate::panic::Panic;
use crate::rounded::rounded;

/// An error of a service, shared by its status, events and report.
pub type SharedError = Arc<dyn Error + Send + Sync>;

/// How and when a generation of a service ended.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Exit {
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub(crate) kind: ExitKind,
    pub(crate) generation: u64,
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::service_status::seconds_since_1970"))]
    pub(crate) at: SystemTime,
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::service_status::seconds"))]
    pub(crate) ran_for: Duration,
}

/// How the work of a generation, or a call of a [periodic](crate::background::periodic()) service, ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ExitKind {
    /// `run` returned `Ok` before it was asked to stop.
    Completed,
    /// `run` returned `Ok` after it was asked to stop, or was never called because the stop came first.
    Stopped,
    /// `start` or `run` returned an error.
    Failed(SharedError),
    /// `start` or `run` panicked.
    Panicked(Panic),
    /// A time limit was exceeded.
    TimedOut(TimeLimit),
    /// The lease of the service's [guard](super::super::Service::guard) was lost.
    LeaseLost,
    /// The work did not stop in time and was dropped at an await point, or its runtime has shut down.
    Aborted,
    /// The work was dropped before its [`stop_timeout`](super::super::Service::stop_timeout) was over: the host had
    /// only this long for it, since other services had taken the time or the stop was forced.
    CutShort(Duration),
    /// The work did not stop in time and its thread is blocked, so it cannot be dropped. It may still be running.
    ///
    /// With [`Placement::Shared`](super::super::Placement::Shared) another task may block the thread, such as the
    /// `stop` of another service: then this service was not polled, and could not end. With `Placement::Thread` and
    /// `Placement::Blocking` only the service itself can.
    Leaked,
}

/// The time limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeLimit {
    /// `start` took longer than [`start_timeout`](super::super::Service::start_timeout).
    Start(Duration),
    /// No [`heartbeat`](super::super::Service::heartbeat) arrived for longer than this.
    Heartbeat(Duration),
    /// A call took longer than [`tick_timeout`](super::super::Every::tick_timeout).
    Tick(Duration),
}

/// How the [`stop`](super::super::BackgroundService::stop) of a generation ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CleanUp {
    /// `start` had not returned `Ok`, so there was nothing to release.
    NotNeeded,
    /// `stop` returned `Ok`.
    Done,
    /// `stop` returned an error.
    Failed(SharedError),
    /// `stop` panicked.
    Panicked(Panic),
    /// `stop` took longer than [`cleanup_timeout`](super::super::Service::cleanup_timeout), or ran past the host's
    /// deadline.
    TimedOut,
    /// The host did not call `stop`: the shutdown was forced and the service blocks its thread, or no time was left.
    /// The thread calls `stop` if `run` ever returns.
    Skipped,
}

impl Exit {
    /// Returns how the generation ended. In JSON: the fields `kind` and `message`.
    #[must_use]
    pub fn kind(&self) -> &ExitKind {
        &self.kind
    }

    /// Returns the number of the generation, counted from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns when the work ended, before `stop`. In JSON: seconds since 1970.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// Returns the time from the beginning of `start` until then. In JSON: seconds.
    #[must_use]
    pub fn ran_for(&self) -> Duration {
        self.ran_for
    }

    /// Returns `true` if the generation neither completed nor stopped.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.kind.is_failure()
    }
}

impl ExitKind {
    /// Returns `true` for all kinds but `Completed` and `Stopped`.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Completed | Self::Stopped)
    }

    #[cfg(feature = "serde")]
    fn name(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::TimedOut(_) => "timed_out",
            Self::LeaseLost => "lease_lost",
            Self::Aborted => "aborted",
            Self::CutShort(_) => "cut_short",
            Self::Leaked => "leaked",
        }
    }
}

impl CleanUp {
    /// Returns `true` if everything that `start` acquired was released.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::NotNeeded | Self::Done)
    }
}

impl fmt::Display for ExitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed(error) => write!(f, "failed: {}", ErrorChain(&**error)),
            Self::Panicked(panic) => write!(f, "panicked: {panic}"),
            Self::TimedOut(limit) => limit.fmt(f),
            Self::LeaseLost => f.write_str("lease lost: another process may run it"),
            Self::Aborted => f.write_str("aborted: it did not stop in time, or its runtime has shut down"),
            Self::CutShort(had) if had.is_zero() => f.write_str("cut short: the host had no time left for it to stop"),
            Self::CutShort(had) => write!(f, "cut short: the host had only {:?} left for it to stop", rounded(*had)),
            Self::Leaked => f.write_str("leaked: its thread is blocked, so it cannot be dropped"),
        }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(limit) => write!(f, "timed out: it did not start within {limit:?}"),
            Self::Heartbeat(limit) => write!(f, "timed out: no heartbeat for {limit:?}"),
            Self::Tick(limit) => write!(f, "timed out: the call took longer than {limit:?}"),
        }
    }
}

impl fmt::Display for CleanUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNeeded => f.write_str("not needed"),
            Self::Done => f.write_str("done"),
            Self::Failed(error) => write!(f, "failed: {}", ErrorChain(&**error)),
            Self::Panicked(panic) => write!(f, "panicked: {panic}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Skipped => f.write_str("skipped: the host had no time left for it"),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ExitKind {
    /// Serializes as `{"kind": "failed", "message": "failed: connection refused"}`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut exit = serializer.serialize_struct("ExitKind", 2)?;
        exit.serialize_field("kind", self.name())?;
        exit.serialize_field("message", &self.to_string())?;
        exit.end()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for CleanUp {
    /// Serializes as its `Display` text: `"done"`, `"failed: disk full"`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
