//! [`TickStatus`], the calls of a periodic service as its host's status shows them.

use std::time::{Duration, SystemTime};

use super::exit::ExitKind;

/// The calls of a [periodic](crate::background::periodic()) service so far, across all of its generations.
///
/// In JSON durations are in seconds, and times are in seconds since 1970.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TickStatus {
    /// How many calls have begun.
    pub runs: u64,
    /// How many calls have failed: with an error, with a panic, by taking longer than
    /// [`tick_timeout`](crate::background::Every::tick_timeout), or because they were dropped before their end.
    pub failures: u64,
    /// How many calls in a row have failed, up to the one that ended last.
    pub consecutive_failures: u64,
    /// How many calls were due but skipped, because another call was running or the runtime was too busy to poll the
    /// service.
    pub skipped: u64,
    /// How many calls are running now: 0 or 1, or more with [`Overlap::Allow`](crate::background::Overlap::Allow).
    pub running: u64,
    /// When the last call began.
    pub last_started: Option<SystemTime>,
    /// How long the call that ended last took.
    pub last_duration: Option<Duration>,
    /// The outcome of the call that ended last. [`Completed`](ExitKind::Completed) is success. A call that was dropped
    /// before its end is [`Aborted`](ExitKind::Aborted).
    pub last_exit: Option<ExitKind>,
    /// How the last failed call ended.
    pub last_failure: Option<ExitKind>,
    /// When the next scheduled call is due, by the wall clock as it is set now. `None` if that is not known yet, for
    /// example during a call of a fixed-delay schedule, or if there are no more calls.
    pub next_run: Option<SystemTime>,
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
