//! [`Exit`], how a generation of a service ended.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, iter};

use crate::panic::Panic;

/// An error of a service, shared by all who are told.
pub type SharedError = Arc<dyn Error + Send + Sync>;

/// How, when and after what time a generation of a service ended.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Exit {
    /// How it ended. In JSON: its `kind` in a word, and a `message`.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub kind: ExitKind,
    /// Which generation it was, counted from 1.
    pub generation: u64,
    /// When its work ended, before `stop`. In JSON: seconds since 1970.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::service_status::seconds_since_1970"))]
    pub at: SystemTime,
    /// The time from the beginning of its `start`. In JSON: seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::service_status::seconds"))]
    pub ran_for: Duration,
}

/// How the work of a generation, or a call of a [periodic](crate::background::periodic()) service, ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ExitKind {
    /// `run` returned `Ok` before it was told to stop.
    Completed,
    /// `run` returned `Ok` after it was told to stop, or was never called because that came first.
    Stopped,
    /// `start` or `run` returned an error.
    Failed(SharedError),
    /// `start` or `run` panicked.
    Panicked(Panic),
    /// It took longer than it may.
    TimedOut(TimeLimit),
    /// It did not stop in time and was dropped where it waited, or its runtime is gone.
    Aborted,
    /// It did not stop in time and blocks its thread, so that it can't be dropped. It may still be at work.
    Leaked,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeLimit {
    /// `start` took longer than [`start_timeout`](super::super::Service::start_timeout).
    Start(Duration),
    /// There was no [`heartbeat`](super::super::Service::heartbeat) for longer than this.
    Heartbeat(Duration),
    /// A call took longer than [`tick_timeout`](super::super::Every::tick_timeout).
    Tick(Duration),
}

/// What became of the [`stop`](super::super::BackgroundService::stop) of a generation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CleanUp {
    /// `start` had not returned `Ok`, so there was nothing to release.
    NotNeeded,
    /// It returned `Ok`.
    Done,
    /// It returned an error.
    Failed(SharedError),
    /// It panicked.
    Panicked(Panic),
    /// It took longer than [`cleanup_timeout`](super::super::Service::cleanup_timeout), or than the host's deadline left it.
    TimedOut,
    /// It was not waited for, because the stop was forced and the service blocks. Its thread calls it if `run` ever returns.
    Skipped,
}

impl Exit {
    /// Whether it ended otherwise than it should: neither completed nor stopped.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.kind.is_failure()
    }
}

impl ExitKind {
    /// Whether it is another one than `Completed` and `Stopped`.
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
            Self::Aborted => "aborted",
            Self::Leaked => "leaked",
        }
    }
}

impl CleanUp {
    /// Whether it released what there was.
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
            Self::Failed(error) => write!(f, "failed: {}", Chain(&**error)),
            Self::Panicked(panic) => write!(f, "panicked: {panic}"),
            Self::TimedOut(limit) => limit.fmt(f),
            Self::Aborted => f.write_str("aborted: it did not end when told to, or its runtime is gone"),
            Self::Leaked => f.write_str("leaked: it blocks its thread and can't be dropped"),
        }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(limit) => write!(f, "timed out: it has not started within {limit:?}"),
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
            Self::Failed(error) => write!(f, "failed: {}", Chain(&**error)),
            Self::Panicked(panic) => write!(f, "panicked: {panic}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Skipped => f.write_str("skipped: the stop was forced"),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ExitKind {
    /// `{"kind": "failed", "message": "failed: connection refused"}`
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
    /// Its words: `"done"`, `"failed: disk full"`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How many sources of an error are told. Real chains have a few; one whose end leads back into it has no end.
const SOURCES: usize = 32;

/// An error with its sources, `outer: inner: innermost`, and `...` in place of those that are too many.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut sources = iter::successors(self.0.source(), |&error| error.source());
        sources.by_ref().take(SOURCES).try_for_each(|error| write!(f, ": {error}"))?;
        if sources.next().is_some() { f.write_str(": ...") } else { Ok(()) }
    }
}
