//! [`Every`], [`FirstCall`] and [`Overlap`]: when a periodic service calls its closure.

use std::time::Duration;

#[cfg(feature = "cron")]
use super::calendar::Calendar;
use super::clock::ClockReading;
#[cfg(feature = "cron")]
use super::cron::{Cron, CronError};
use super::timetable::{FixedDelay, FixedRate, Jitter, Timetable};

/// The resolution of timers. With a shorter interval, the next call would already be due before a timer could fire.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// When and how often a [periodic](super::periodic()) service calls its closure.
///
/// | constructor | the next call begins | use it for |
/// |---|---|---|
/// | [`secs`](Self::secs), [`fixed_delay`](Self::fixed_delay) | an interval after the *end* of the last | refreshing |
/// | [`fixed_rate`](Self::fixed_rate) | a whole number of intervals after the start | sampling, counting |
/// | `cron` (feature `cron`) | at times on the wall clock | nightly reports |
///
/// A fixed delay leaves a pause between calls. A fixed rate makes the same number of calls per hour, however long each
/// of them takes.
///
/// | option | default |
/// |---|---|
/// | [`first_call`](Self::first_call) | [`FirstCall::Now`], for `cron` [`FirstCall::AfterInterval`] |
/// | [`jitter`](Self::jitter) | none |
/// | [`overlap`](Self::overlap) | [`Overlap::Skip`] |
/// | [`tick_timeout`](Self::tick_timeout) | none |
/// | [`max_runs`](Self::max_runs) | unlimited |
/// | [`give_up_after`](Self::give_up_after) | never: failures are counted and logged |
///
/// [`ServiceHostBuilder::build`](super::super::ServiceHostBuilder::build) rejects invalid values, such as an interval
/// of zero. Timers have a resolution of one millisecond: a shorter interval behaves like one millisecond.
///
/// # Examples
///
/// ```
/// use onelane::background::{Every, FirstCall, Overlap};
/// use std::time::Duration;
///
/// let poll = Every::secs(30).jitter(Duration::from_secs(3)).tick_timeout(Duration::from_secs(10));
/// let sample = Every::fixed_rate(Duration::from_millis(250)).overlap(Overlap::Queue);
/// let clean_up = Every::secs(3600).first_call(FirstCall::AfterInterval).give_up_after(3);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a schedule does nothing unless it is passed to `periodic`"]
pub struct Every {
    kind: ScheduleKind,
    pub(super) first_call: FirstCall,
    jitter: Duration,
    pub(super) overlap: Overlap,
    pub(super) tick_timeout: Option<Duration>,
    pub(super) max_runs: Option<u64>,
    pub(super) give_up_after: Option<u64>,
}

/// When a [periodic](super::periodic()) service makes the first call of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FirstCall {
    /// As soon as the service runs, without [`jitter`](Every::jitter). The default for intervals.
    Now,
    /// After one interval, or at the first time that the cron expression matches. The default for cron expressions.
    AfterInterval,
}

/// What happens to a call that becomes due while the previous one is still running.
///
/// It applies to [`fixed_rate`](Every::fixed_rate) and `cron`. With a [`fixed_delay`](Every::fixed_delay), whose
/// interval begins at the end of a call, calls never overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overlap {
    /// The call is skipped and counted in [`skipped`](crate::background::TickStatus::skipped). The next one begins at
    /// its scheduled time.
    #[default]
    Skip,
    /// One call is queued and begins as soon as the running one has ended. Further calls are skipped.
    Queue,
    /// The calls run concurrently. Each is a child task of the service, as with
    /// [`RunContext::spawn`](super::super::RunContext::spawn). The number of concurrent calls is not limited, except by
    /// [`tick_timeout`](Every::tick_timeout). Blocking calls never overlap.
    Allow,
}

#[derive(Clone, Debug)]
enum ScheduleKind {
    FixedDelay(Duration),
    FixedRate(Duration),
    #[cfg(feature = "cron")]
    Cron(Cron),
}

impl Every {
    /// Makes each call begin the given number of seconds after the end of the last one. This is a shorthand for
    /// [`fixed_delay`](Self::fixed_delay).
    ///
    /// The method corresponds to `repeat_every(seconds=…)` in fastapi-utils.
    pub fn secs(seconds: u64) -> Self {
        Self::fixed_delay(Duration::from_secs(seconds))
    }

    /// Makes each call begin one `interval` after the end of the last one.
    ///
    /// Calls never overlap. The duration of a call delays all calls after it.
    pub fn fixed_delay(interval: Duration) -> Self {
        Self::new(ScheduleKind::FixedDelay(interval), FirstCall::Now)
    }

    /// Makes a call due once per `interval`, counted from when the service began to run, however long calls take.
    ///
    /// The schedule does not drift. [`overlap`](Self::overlap) decides what happens to calls that become due while
    /// another one runs. If several calls were missed because the runtime did not poll the service, a single call makes
    /// up for all of them: there are no bursts.
    pub fn fixed_rate(interval: Duration) -> Self {
        Self::new(ScheduleKind::FixedRate(interval), FirstCall::Now)
    }

    /// Makes a call due at the times that a cron expression matches, in UTC or in a [`time_zone`](Self::time_zone).
    ///
    /// The expression has five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or JAN-DEC) and day
    /// of week (0-7 or SUN-SAT, both 0 and 7 are Sunday). A field for seconds may precede them, and then a field for
    /// the year may follow. Each field accepts `*`, `a,b`, `a-b` and `*/n`. The day of month also accepts `L` (the
    /// last) and `15W` (the nearest workday), the day of week `FRI#L` and `MON#2`. If both days are given, either of
    /// them is sufficient. `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually` are
    /// supported. A range does not run over the end of its field (write `6-7,1` instead of `6-1`), and a step is not
    /// larger than its range.
    ///
    /// # When clocks change
    ///
    /// Daylight saving time follows the rules of Vixie cron. An expression with a fixed time of day (one second, one
    /// minute, one hour) causes one call per day: a time that is skipped is made up for at the first moment after the
    /// gap, unless the gap is longer than two hours, and a time that occurs twice causes a call only at its first
    /// occurrence. Any other expression follows the clock: `*/30 * * * *` causes a call every half hour of real time,
    /// as often as its times occur, and none inside a gap.
    ///
    /// The service notices within a minute that the clock was set, also after the machine was suspended. A single call
    /// makes up for all calls that were missed, and the others are counted in
    /// [`skipped`](crate::background::TickStatus::skipped). If the clock is set back by three hours or less, no call of
    /// an expression with fixed times is repeated. An expression with a `*` or a `*/n` in its second, minute or hour
    /// follows the new time at once, and so does every expression if the clock is set back further: it was wrong
    /// before.
    ///
    /// The service completes when no times are left, for example after the year in the expression has passed.
    ///
    /// # Errors
    ///
    /// Returns [`Invalid`](CronError::Invalid) with the expression and what is wrong with it, and
    /// [`Never`](CronError::Never) if it matches no future time.
    ///
    /// # Examples
    ///
    /// ```
    /// use onelane::background::{CronError, Every};
    ///
    /// let nightly = Every::cron("0 3 * * *")?.time_zone("Europe/Berlin")?;
    /// let workdays = Every::cron("*/15 9-17 * * MON-FRI")?;
    ///
    /// let error = Every::cron("0 25 * * *").map(|_| ()).unwrap_err();
    /// assert!(error.to_string().starts_with(r#"invalid cron expression "0 25 * * *": "#));
    /// # Ok::<(), CronError>(())
    /// ```
    #[cfg(feature = "cron")]
    pub fn cron(expression: &str) -> Result<Self, CronError> {
        let cron = Cron::new(expression, std::time::SystemTime::now())?;
        Ok(Self::new(ScheduleKind::Cron(cron), FirstCall::AfterInterval))
    }

    fn new(kind: ScheduleKind, first_call: FirstCall) -> Self {
        Self {
            kind,
            first_call,
            jitter: Duration::ZERO,
            overlap: Overlap::Skip,
            tick_timeout: None,
            max_runs: None,
            give_up_after: None,
        }
    }

    /// Sets the time zone of a [`cron`](Self::cron) expression by its IANA name, such as `Europe/Berlin`. Default: UTC,
    /// whatever the time zone of the server is.
    ///
    /// The rules of a zone are those of the operating system, or those bundled when the crate was built if the system
    /// has none.
    ///
    /// # Errors
    ///
    /// Returns [`UnknownTimeZone`](CronError::UnknownTimeZone) if there is no zone with this name, and
    /// [`NotCron`](CronError::NotCron) if the schedule is an interval.
    #[cfg(feature = "cron")]
    pub fn time_zone(mut self, name: &str) -> Result<Self, CronError> {
        let ScheduleKind::Cron(cron) = self.kind else {
            return Err(CronError::NotCron { time_zone: name.into() });
        };
        self.kind = ScheduleKind::Cron(cron.in_time_zone(name)?);
        Ok(self)
    }

    /// Sets when the first call of each generation begins.
    pub fn first_call(mut self, first_call: FirstCall) -> Self {
        self.first_call = first_call;
        self
    }

    /// Delays each call by a random time of at most `at_most`, so that the replicas of a service do not all make their
    /// calls at the same time.
    ///
    /// Jitter does not accumulate: a fixed rate keeps its schedule. For a fixed rate it must be shorter than the
    /// interval.
    pub fn jitter(mut self, at_most: Duration) -> Self {
        self.jitter = at_most;
        self
    }

    /// Sets what happens to a call that becomes due while the previous one is still running.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Sets how long a call may take. After that its future is dropped at the await point where it waits, and the call
    /// has failed. A call that blocks its thread cannot be dropped, and neither can what it started on another thread,
    /// such as a task of a pool. A call of [`periodic_blocking`](super::periodic_blocking) that exceeds the timeout
    /// has failed too, but counts as running until it returns: see
    /// [`TickContext::remaining`](super::TickContext::remaining).
    pub fn tick_timeout(mut self, timeout: Duration) -> Self {
        self.tick_timeout = Some(timeout);
        self
    }

    /// Completes the service after this many calls, once they have ended. Failed and triggered calls count, too.
    ///
    /// Calls made before a restart count as well, except that a service which completed and is restarted by
    /// [`Restart::Always`](super::super::Restart::Always) counts from zero again.
    pub fn max_runs(mut self, runs: u64) -> Self {
        self.max_runs = Some(runs);
        self
    }

    /// Ends the generation with an error after this many consecutive failures.
    ///
    /// [`Restart`](super::super::Restart) and [`Intensity`](super::super::Intensity) decide whether the service is then
    /// restarted. The next generation counts from zero again.
    pub fn give_up_after(mut self, failures_in_a_row: u64) -> Self {
        self.give_up_after = Some(failures_in_a_row);
        self
    }

    pub(super) fn timetable(&self, now: ClockReading, random: fn() -> f64) -> Box<dyn Timetable> {
        let jitter = Jitter { max: self.jitter, random };
        match &self.kind {
            ScheduleKind::FixedDelay(interval) => Box::new(FixedDelay::new(*interval, jitter)),
            ScheduleKind::FixedRate(interval) => Box::new(FixedRate::new((*interval).max(MIN_INTERVAL), jitter, now)),
            #[cfg(feature = "cron")]
            ScheduleKind::Cron(cron) => Box::new(Calendar::new(cron.clone(), jitter, now)),
        }
    }

    /// Returns an invalid option and what is wrong with it, if there is one.
    pub(super) fn problem(&self, is_blocking: bool) -> Option<(&'static str, &'static str)> {
        let (interval, is_delay) = match &self.kind {
            ScheduleKind::FixedDelay(interval) => (Some(*interval), true),
            ScheduleKind::FixedRate(interval) => (Some(*interval), false),
            #[cfg(feature = "cron")]
            ScheduleKind::Cron(_) => (None, false),
        };
        if interval == Some(Duration::ZERO) {
            return Some(("interval", "zero leaves no pause between calls: set how long to wait"));
        }
        if is_delay && self.overlap != Overlap::Skip {
            return Some(("overlap", "calls with a fixed delay never overlap: remove it, or use Every::fixed_rate"));
        }
        if is_blocking && self.overlap == Overlap::Allow {
            return Some(("overlap", "blocking calls never overlap: use Overlap::Queue, or an async call"));
        }
        if !is_delay && interval.is_some_and(|interval| self.jitter >= interval) {
            return Some(("jitter", "it must be shorter than the interval of a fixed rate"));
        }
        if self.tick_timeout == Some(Duration::ZERO) {
            return Some(("tick_timeout", "no call ends in zero time: remove it to let calls take any time"));
        }
        if self.max_runs == Some(0) {
            return Some(("max_runs", "with zero runs the closure is never called: remove the service"));
        }
        if self.give_up_after == Some(0) {
            return Some(("give_up_after", "use 1 to give up after the first failure, or remove it"));
        }
        None
    }
}
