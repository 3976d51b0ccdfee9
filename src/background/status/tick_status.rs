//! [`TickStatus`], the calls of a periodic service in the status of its host.

use std::time::{Duration, SystemTime};

use super::exit::ExitKind;

/// The calls of a [periodic](crate::background::periodic()) service so far, over all its generations.
///
/// In JSON durations are seconds, and times are seconds since 1970.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TickStatus {
    /// How many calls have begun.
    pub runs: u64,
    /// How many of them have failed: with an error, a panic, by taking longer than
    /// [`tick_timeout`](crate::background::Every::tick_timeout), or because they were dropped before their end.
    pub failures: u64,
    /// How many of them in a row have failed, up to the one that ended last.
    pub consecutive_failures: u64,
    /// How many calls were due and left out, because one was running or the runtime gave no turn.
    pub skipped: u64,
    /// How many run now: 0 or 1, or more with [`Overlap::Allow`](crate::background::Overlap::Allow).
    pub running: u64,
    /// When the last call began.
    pub last_started: Option<SystemTime>,
    /// How long the call took that ended last.
    pub last_duration: Option<Duration>,
    /// How the call ended that ended last. [`Completed`](ExitKind::Completed) is success; a call that was dropped before its
    /// end is [`Aborted`](ExitKind::Aborted).
    pub last_exit: Option<ExitKind>,
    /// How the last call that has failed ended.
    pub last_failure: Option<ExitKind>,
    /// When the next call is due by schedule, as the wall clock stands now. `None` where it is not known yet, as while a call
    /// runs that a fixed delay follows, and where there will be none.
    pub next_run: Option<SystemTime>,
}

#[cfg(feature = "serde")]
impl serde::Serialize for TickStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Status<'a> {
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
        let status = Status {
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
