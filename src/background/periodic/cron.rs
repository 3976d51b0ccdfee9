//! [`Cron`], a cron expression in a time zone, and [`CronError`]. Only this file and its tests use croner and jiff.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::debug::impl_debug;
use croner::errors::CronError as CronerError;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use thiserror::Error;

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

const HOUR: Duration = Duration::from_secs(3600);

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
        let pattern = match croner::Cron::from_str(&expression) {
            Ok(pattern) => Arc::new(pattern),
            Err(error) => return Err(CronError::Invalid { expression, problem: problem(error).into() }),
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

    /// Returns the first time after `time` that the expression matches, if there is one.
    pub(super) fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
        let from = |hours: u32| self.search(time.checked_add(hours * HOUR)?);
        from(0).or_else(|| {
            // croner finds nothing where a clock change leaves out more than two hours, such as the day that an island
            // skips when it crosses the date line. If the expression matches a later time, search again from after the
            // gap.
            from(LONGEST_GAP)?;
            (1..=LONGEST_GAP).find_map(from)
        })
    }

    fn search(&self, time: SystemTime) -> Option<SystemTime> {
        let time = Timestamp::try_from(time).ok()?.to_zoned(self.time_zone.clone());
        let next = self.pattern.find_next_occurrence(&time, false).ok()?;
        Some(next.timestamp().into())
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
