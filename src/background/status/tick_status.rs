//! [`TickStatus`], the calls of a periodic service as its host's status shows them.

use std::time::{Duration, SystemTime};

use super::exit::ExitKind;

/// The calls of a [periodic](crate::background::periodic()) service so far, across all of its generations.
///
/// In JSON durations are in seconds, and times are in seconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct TickStatus {
    pub(crate) runs: u64,
    pub(crate) failures: u64,
    pub(crate) consecutive_failures: u64,
    pub(crate) skipped: u64,
    pub(crate) running: u64,
    pub(crate) last_started: Option<SystemTime>,
    pub(crate) last_duration: Option<Duration>,
    pub(crate) last_exit: Option<ExitKind>,
    pub(crate) last_failure: Option<ExitKind>,
    pub(crate) next_run: Option<SystemTime>,
}

impl TickStatus {
    /// Returns how many calls have begun.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Returns how many calls have failed: with an error, with a panic, by taking longer than
    /// [`tick_timeout`](crate::background::Every::tick_timeout), or because they were dropped before their end.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Returns how many calls in a row have failed, up to the one that ended last.
    #[must_use]
    pub fn consecutive_failures(&self) -> u64 {
        self.consecutive_failures
    }

    /// Returns how many calls were due but skipped, because another call was running, the runtime was too busy to poll
    /// the service, or, with a cron expression, the clock was set or the machine slept.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Returns how many calls are running now: 0 or 1, or more with
    /// [`Overlap::Allow`](crate::background::Overlap::Allow).
    #[must_use]
    pub fn running(&self) -> u64 {
        self.running
    }

    /// Returns when the last call began.
    #[must_use]
    pub fn last_started(&self) -> Option<SystemTime> {
        self.last_started
    }

    /// Returns how long the call that ended last took.
    #[must_use]
    pub fn last_duration(&self) -> Option<Duration> {
        self.last_duration
    }

    /// Returns the outcome of the call that ended last. [`Completed`](ExitKind::Completed) is success. A call that was
    /// dropped before its end is [`Aborted`](ExitKind::Aborted).
    #[must_use]
    pub fn last_exit(&self) -> Option<&ExitKind> {
        self.last_exit.as_ref()
    }

    /// Returns how the last failed call ended.
    #[must_use]
    pub fn last_failure(&self) -> Option<&ExitKind> {
        self.last_failure.as_ref()
    }

    /// Returns when the next scheduled call begins, with its jitter, by the wall clock as it is set now. `None` if that
    /// is not known yet, for example during a call of a fixed-delay schedule, or if there are no more calls.
    #[must_use]
    pub fn next_run(&self) -> Option<SystemTime> {
        self.next_run
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for TickStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct TickStatusFields<'a> {
            runs: u64,
            failures: u64,
            consecutive_failures: u64,
            skipped: u64,
            running: u64,
            last_started: Option<f64>,
            last_duration_seconds: Option<f64>,
            last_exit: Option<&'a ExitKind>,
            last_failure: Option<&'a ExitKind>,
            next_run: Option<f64>,
        }

        let since_1970 =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let status = TickStatusFields {
            runs: self.runs,
            failures: self.failures,
            consecutive_failures: self.consecutive_failures,
            skipped: self.skipped,
            running: self.running,
            last_started: self.last_started.map(since_1970),
            last_duration_seconds: self.last_duration.map(|duration| duration.as_secs_f64()),
            last_exit: self.last_exit.as_ref(),
            last_failure: self.last_failure.as_ref(),
            next_run: self.next_run.map(since_1970),
        };
        status.serialize(serializer)
    }
}
