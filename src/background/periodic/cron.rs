//! [`Cron`], a cron expression in a time zone. The only file that knows croner and jiff.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use croner::errors::CronError as Croner;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::error::CronError;

const HOUR: Duration = Duration::from_secs(3600);

/// In hours, with one to begin before it.
const LONGEST_GAP: u32 = 25;

/// A cron expression, which names at least one time to come, in a time zone.
#[derive(Clone)]
pub(super) struct Cron {
    expression: Arc<str>,
    pattern: Arc<croner::Cron>,
    time_zone: TimeZone,
}

impl Cron {
    /// In UTC.
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

    /// The first time after this one that the expression names, if there is one.
    pub(super) fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
        let from = |hours: u32| self.search(time.checked_add(hours * HOUR)?);
        from(0).or_else(|| {
            // croner gives up where the clocks leave out more than two hours, as on a day that an island skips with the
            // date line. If there is a time beyond, it is asked again from behind the gap.
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

/// In one sentence, lower case and without a full stop.
fn problem(error: Croner) -> String {
    let problem = match error {
        Croner::EmptyPattern => "it is empty".into(),
        Croner::InvalidPattern(text) | Croner::ComponentError(text) | Croner::IllegalCharacters(text) => text,
        error => error.to_string(),
    };
    let mut letters = problem.trim_end_matches('.').chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cron").field("expression", &self.expression).field("time_zone", &self.time_zone).finish()
    }
}
