//! [`Cron`], a cron expression in a time zone, and [`CronError`]. Only this file and its tests use croner and jiff.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use croner::errors::CronError as CronerError;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use thiserror::Error;

use super::calendar::Recurrence;
use super::cron_fields::rewrite;
use crate::debug::impl_debug;

/// Why a cron expression yields no schedule.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CronError {
    /// The expression is not valid.
    #[error("invalid cron expression {expression:?}: {problem}")]
    #[non_exhaustive]
    Invalid {
        /// The expression.
        expression: Arc<str>,
        /// What is wrong with it.
        problem: Arc<str>,
    },
    /// The expression matches no time in the future, such as the 30th of February.
    #[error("the cron expression {expression:?} matches no future time: correct its day, month or year")]
    #[non_exhaustive]
    Never {
        /// The expression.
        expression: Arc<str>,
    },
    /// The time zone is unknown.
    #[error("unknown time zone {time_zone:?} for {expression:?}: use an IANA name such as \"Europe/Berlin\"")]
    #[non_exhaustive]
    UnknownTimeZone {
        /// The expression.
        expression: Arc<str>,
        /// The name of the time zone.
        time_zone: Arc<str>,
    },
    /// The schedule is an interval, which is the same in every time zone.
    #[error("an interval has no time zone, but {time_zone:?} is set: remove it, or use a cron expression")]
    #[non_exhaustive]
    NotCron {
        /// The name of the time zone.
        time_zone: Arc<str>,
    },
}

impl CronError {
    /// Returns the expression, unless the schedule is an interval.
    #[must_use]
    pub fn expression(&self) -> Option<&str> {
        match self {
            Self::Invalid { expression, .. }
            | Self::Never { expression }
            | Self::UnknownTimeZone { expression, .. } => Some(expression),
            Self::NotCron { .. } => None,
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The longest clock change to search past, in hours: a skipped day, and one hour to begin before it.
const LONGEST_GAP: u32 = 25;

/// A cron expression in a time zone. It matches at least one future time.
#[derive(Clone)]
pub(super) struct Cron {
    expression: Arc<str>,
    pattern: Arc<croner::Cron>,
    time_zone: TimeZone,
}

impl Cron {
    /// Parses an expression whose times are in UTC.
    pub(super) fn new(expression: &str, now: SystemTime) -> Result<Self, CronError> {
        let expression: Arc<str> = expression.into();
        let parsed = rewrite(&expression).and_then(|text| croner::Cron::from_str(&text).map_err(problem));
        let pattern = match parsed {
            Ok(pattern) => Arc::new(pattern),
            Err(problem) => return Err(CronError::Invalid { expression, problem: problem.into() }),
        };
        let cron = Self { expression, pattern, time_zone: TimeZone::UTC };
        if cron.next_after(now).is_none() {
            return Err(CronError::Never { expression: cron.expression });
        }
        Ok(cron)
    }

    pub(super) fn in_time_zone(self, name: &str) -> Result<Self, CronError> {
        match TimeZone::get(name) {
            Ok(time_zone) => Ok(Self { time_zone, ..self }),
            Err(_) => Err(CronError::UnknownTimeZone { expression: self.expression, time_zone: name.into() }),
        }
    }

    fn search(&self, time: SystemTime) -> Option<SystemTime> {
        let next = self.pattern.find_next_occurrence(&self.zoned(time)?, false).ok()?;
        Some(next.timestamp().into())
    }

    fn zoned(&self, time: SystemTime) -> Option<Zoned> {
        Some(Timestamp::try_from(time).ok()?.to_zoned(self.time_zone.clone()))
    }

    /// Returns the end of the hour or the day in which `time` lies, if it begins after `previous` and no clock change
    /// makes it shorter or longer.
    fn end_of_whole(&self, unit: Duration, previous: SystemTime, time: SystemTime) -> Option<SystemTime> {
        let local = self.zoned(time)?;
        let since_midnight = [local.hour().into(), local.minute().into(), i64::from(local.second())];
        let seconds = since_midnight.into_iter().fold(0, |seconds, part: i64| seconds * 60 + part);
        let since_start = Duration::from_secs(u64::try_from(seconds).ok()? % unit.as_secs());
        let start = time.checked_sub(since_start).filter(|start| *start > previous)?;
        let end = start.checked_add(unit)?;
        (self.zoned(start)?.offset() == self.zoned(end)?.offset()).then_some(end)
    }
}

impl Recurrence for Cron {
    fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
        let from = |hours: u32| self.search(time.checked_add(hours * HOUR)?);
        from(0).or_else(|| {
            // croner finds nothing where a clock change leaves out more than two hours, such as the day that an island
            // skips when it crosses the date line. If the expression matches a later time, search again from after the
            // gap.
            from(LONGEST_GAP)?;
            (1..=LONGEST_GAP).find_map(from)
        })
    }

    /// Vixie cron's wildcard jobs: those with a `*` in their second, minute or hour.
    fn is_frequent(&self) -> bool {
        let pattern = &self.pattern.pattern;
        [&pattern.seconds, &pattern.minutes, &pattern.hours].into_iter().any(|field| field.from_wildcard)
    }

    /// Counts whole hours and whole days at once.
    fn count(&self, after: SystemTime, until: SystemTime) -> (u64, Option<SystemTime>) {
        let pattern = &self.pattern.pattern;
        let [seconds, minutes, hours] =
            [&pattern.seconds, &pattern.minutes, &pattern.hours].map(|field| field.values().len() as u64);
        let wholes = [(DAY, seconds * minutes * hours), (HOUR, seconds * minutes)];
        let next_after = |time| self.next_after(time).filter(|next| *next <= until);
        let (mut count, mut last, mut previous, mut next) = (0, None, after, next_after(after));
        while let Some(time) = next {
            let whole = wholes.iter().filter(|(_, times)| *times > 1).find_map(|(unit, times)| {
                let end = self.end_of_whole(*unit, previous, time)?.checked_sub(SECOND)?;
                // The last times are passed one by one, since the last one is returned.
                Some((*times, end, next_after(end)?))
            });
            let (times, end, following) = match whole {
                Some((times, end, following)) => (times, end, Some(following)),
                None => (1, time, next_after(time)),
            };
            (count, previous, next) = (count + times, end, following);
            last = Some(end);
        }
        (count, last)
    }
}

/// Returns the message of a croner error in this crate's style: lower case, without a full stop.
fn problem(error: CronerError) -> String {
    let problem = match error {
        CronerError::EmptyPattern => "it is empty".into(),
        CronerError::InvalidPattern(text)
        | CronerError::ComponentError(text)
        | CronerError::IllegalCharacters(text) => text,
        error => error.to_string(),
    };
    let mut letters = problem.trim_end_matches('.').chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

impl_debug!(Cron |this| { expression: this.expression, time_zone: this.time_zone });
