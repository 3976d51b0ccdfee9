//! [`Every`], when the closure of a periodic service is called.

use std::time::Duration;

#[cfg(feature = "croner")]
use super::cron::Cron;
#[cfg(feature = "croner")]
use super::error::CronError;
use super::first::First;
use super::now::Now;
use super::overlap::Overlap;
use super::slots::{DelaySlots, Jitter, RateSlots, Slots};
#[cfg(feature = "croner")]
use super::wall_slots::WallSlots;

/// What timers are exact to. A beat that is faster would be due again before it could be waited for.
const SHORTEST: Duration = Duration::from_millis(1);

/// When and how often a [periodic](super::periodic()) service calls its closure.
///
/// | made by | the next call begins | choose it for |
/// |---|---|---|
/// | [`secs`](Self::secs), [`fixed_delay`](Self::fixed_delay) | an interval after the *end* of the last | what is to rest in between: clean up, poll, refresh |
/// | [`fixed_rate`](Self::fixed_rate) | a whole number of intervals after the first | what counts or samples: as many calls an hour, whatever each takes |
/// | `cron`, with the feature `croner` | at times on the wall clock | what people wait for: reports at three in the morning |
///
/// | option | default |
/// |---|---|
/// | [`first`](Self::first) | [`First::Now`]; with `cron` [`First::AfterInterval`] |
/// | [`jitter`](Self::jitter) | none |
/// | [`overlap`](Self::overlap) | [`Overlap::Skip`] |
/// | [`tick_timeout`](Self::tick_timeout) | none |
/// | [`max_runs`](Self::max_runs) | no end |
/// | [`give_up_after`](Self::give_up_after) | never: a failure is counted and logged |
///
/// Values that make no sense, such as an interval of zero, are refused by
/// [`ServiceHostBuilder::build`](super::super::ServiceHostBuilder::build). Timers are exact to a millisecond: shorter
/// intervals come as often as that.
///
/// # Examples
///
/// ```
/// use onelane::background::{Every, First, Overlap};
/// use std::time::Duration;
///
/// let poll = Every::secs(30).jitter(Duration::from_secs(3)).tick_timeout(Duration::from_secs(10));
/// let sample = Every::fixed_rate(Duration::from_millis(250)).overlap(Overlap::Queue);
/// let clean_up = Every::secs(3600).first(First::AfterInterval).give_up_after(3);
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is for `periodic`"]
pub struct Every {
    rhythm: Rhythm,
    pub(super) first: First,
    jitter: Duration,
    pub(super) overlap: Overlap,
    pub(super) tick_timeout: Option<Duration>,
    pub(super) max_runs: Option<u64>,
    pub(super) give_up_after: Option<u64>,
}

#[derive(Clone, Debug)]
enum Rhythm {
    FixedDelay(Duration),
    FixedRate(Duration),
    #[cfg(feature = "croner")]
    Cron(Cron),
}

impl Every {
    /// So many seconds after the end of the last call: short for [`fixed_delay`](Self::fixed_delay). It is what
    /// `repeat_every(seconds=…)` of fastapi-utils does.
    pub fn secs(seconds: u64) -> Self {
        Self::fixed_delay(Duration::from_secs(seconds))
    }

    /// Each call begins so long after the end of the last. Calls never overlap, and how long one takes moves all that
    /// follow.
    pub fn fixed_delay(interval: Duration) -> Self {
        Self::new(Rhythm::FixedDelay(interval), First::Now)
    }

    /// A call is due each `interval`, counted from when the service began to run, however long calls take. It does not
    /// drift. What is due while a call runs is a matter of [`overlap`](Self::overlap); of what was missed because the
    /// runtime gave no turn, one call is made up for. There are no bursts.
    pub fn fixed_rate(interval: Duration) -> Self {
        Self::new(Rhythm::FixedRate(interval), First::Now)
    }

    /// At the times that a cron expression names, in UTC or in a [`time_zone`](Self::time_zone).
    ///
    /// The expression has five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or JAN-DEC), day of week
    /// (0-7 or SUN-SAT, both 0 and 7 are Sunday). There may be seconds before them, and a year after the seven. Each takes
    /// `*`, `a,b`, `a-b`, `*/n`; the day of month `L` (the last) and `15W` (the nearest workday), the day of week `FRI#L` and
    /// `MON#2`. If both days are given, either will do. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` are known.
    ///
    /// # When clocks change
    ///
    /// For daylight saving time the rules are Vixie cron's. An expression of a fixed time of day (one second, one minute, one
    /// hour) is called once each day: a time that is left out is made up for at the first moment after the gap (unless that is
    /// longer than two hours), and one that comes twice is called the first time. Any other expression goes by the clock: `*/30 * * * *` is called every half hour
    /// of real time, as often as its times come, and not in a gap.
    ///
    /// A clock that is set is noticed within a minute, also after the machine was suspended. Of the calls that were missed, one
    /// is made up for. What was called before is not called again if the clock is put back by three hours or less; if it is
    /// put back further, it was wrong before, and the schedule goes by the new time.
    ///
    /// The service completes when there is no time left, as after a year that has passed.
    ///
    /// # Errors
    ///
    /// [`Invalid`](CronError::Invalid) with the expression and what is wrong with it, and [`Never`](CronError::Never) if it
    /// names no time to come.
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
    /// assert!(error.to_string().starts_with(r#"the cron expression "0 25 * * *" can't be read: "#));
    /// # Ok::<(), CronError>(())
    /// ```
    #[cfg(feature = "croner")]
    pub fn cron(expression: &str) -> Result<Self, CronError> {
        let cron = Cron::new(expression, std::time::SystemTime::now())?;
        Ok(Self::new(Rhythm::Cron(cron), First::AfterInterval))
    }

    fn new(rhythm: Rhythm, first: First) -> Self {
        Self {
            rhythm,
            first,
            jitter: Duration::ZERO,
            overlap: Overlap::Skip,
            tick_timeout: None,
            max_runs: None,
            give_up_after: None,
        }
    }

    /// Reads a [`cron`](Self::cron) expression as times in this zone, by its IANA name, such as `Europe/Berlin`. Without
    /// it they are in UTC, wherever the server stands.
    ///
    /// Zones are those of the operating system, and where it has none, those of the day on which the crate was built.
    ///
    /// # Errors
    ///
    /// [`UnknownTimeZone`](CronError::UnknownTimeZone), and [`NotCron`](CronError::NotCron) for an interval.
    #[cfg(feature = "croner")]
    pub fn time_zone(mut self, name: &str) -> Result<Self, CronError> {
        let Rhythm::Cron(cron) = self.rhythm else {
            return Err(CronError::NotCron { time_zone: name.into() });
        };
        self.rhythm = Rhythm::Cron(cron.in_time_zone(name)?);
        Ok(self)
    }

    /// When the first call comes, in each generation anew.
    pub fn first(mut self, first: First) -> Self {
        self.first = first;
        self
    }

    /// Has each call come up to so much later, by chance, so that the replicas of a service don't all come at once. It does
    /// not add up: a fixed rate keeps its beat. There it has to be shorter than the interval.
    pub fn jitter(mut self, at_most: Duration) -> Self {
        self.jitter = at_most;
        self
    }

    /// What becomes of a call that is due while the one before it runs.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// How long a call may take. Then it is dropped where it waits, and has failed. One that blocks its thread can't be
    /// dropped.
    pub fn tick_timeout(mut self, timeout: Duration) -> Self {
        self.tick_timeout = Some(timeout);
        self
    }

    /// After so many calls, failed and triggered ones included, the service completes, once they have ended. Calls before a
    /// restart count, too, but with [`Restart::Always`](super::super::Restart::Always) a service that has completed counts
    /// anew.
    pub fn max_runs(mut self, runs: u64) -> Self {
        self.max_runs = Some(runs);
        self
    }

    /// After so many failures in a row the generation ends with an error, and the service is restarted or given up, as
    /// [`Restart`](super::super::Restart) and [`Intensity`](super::super::Intensity) say. The next generation counts anew.
    pub fn give_up_after(mut self, failures_in_a_row: u64) -> Self {
        self.give_up_after = Some(failures_in_a_row);
        self
    }

    pub(super) fn slots(&self, now: Now, chance: fn() -> f64) -> Box<dyn Slots> {
        let jitter = Jitter { most: self.jitter, chance };
        match &self.rhythm {
            Rhythm::FixedDelay(interval) => Box::new(DelaySlots::new(*interval, jitter)),
            Rhythm::FixedRate(interval) => Box::new(RateSlots::new((*interval).max(SHORTEST), jitter, now)),
            #[cfg(feature = "croner")]
            Rhythm::Cron(cron) => {
                let cron = cron.clone();
                Box::new(WallSlots::new(move |time| cron.next_after(time), jitter, now))
            }
        }
    }

    /// The option that makes no sense, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let (interval, is_delay) = match &self.rhythm {
            Rhythm::FixedDelay(interval) => (Some(*interval), true),
            Rhythm::FixedRate(interval) => (Some(*interval), false),
            #[cfg(feature = "croner")]
            Rhythm::Cron(_) => (None, false),
        };
        if interval == Some(Duration::ZERO) {
            return Some(("interval", "of zero, between calls without a pause: say how long to wait"));
        }
        if is_delay && self.overlap != Overlap::Skip {
            let problem = "set for a fixed delay, whose calls never overlap: leave it out, or use Every::fixed_rate";
            return Some(("overlap", problem));
        }
        if !is_delay && interval.is_some_and(|interval| self.jitter >= interval) {
            return Some(("jitter", "as long as the interval of its fixed rate, or longer: make it shorter"));
        }
        if self.tick_timeout == Some(Duration::ZERO) {
            return Some(("tick_timeout", "of zero, in which no call ends: leave it out to let calls take their time"));
        }
        if self.max_runs == Some(0) {
            return Some(("max_runs", "of zero, with which it is never called: leave the service out"));
        }
        if self.give_up_after == Some(0) {
            return Some(("give_up_after", "of zero: say 1 to give up after the first failure, or leave it out"));
        }
        None
    }
}
