//! [`CronError`], what is wrong with a cron expression.

use std::sync::Arc;

use thiserror::Error;

/// Why there is no schedule to be made of a cron expression.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CronError {
    /// It can't be read.
    #[error("the cron expression {expression:?} can't be read: {problem}")]
    Invalid {
        /// The expression.
        expression: Arc<str>,
        /// What is wrong with it.
        problem: Arc<str>,
    },
    /// It names no time to come, such as the 30th of February.
    #[error("the cron expression {expression:?} names no time to come: correct its day, month or year")]
    Never {
        /// The expression.
        expression: Arc<str>,
    },
    /// The time zone is not known.
    #[error("the time zone {time_zone:?} for {expression:?} is not known: use an IANA name such as \"Europe/Berlin\"")]
    UnknownTimeZone {
        /// The expression.
        expression: Arc<str>,
        /// The name of the time zone.
        time_zone: Arc<str>,
    },
    /// The schedule is an interval, which is the same in every time zone.
    #[error("the time zone {time_zone:?} is for an interval, which needs none: leave it out, or use a cron expression")]
    NotCron {
        /// The name of the time zone.
        time_zone: Arc<str>,
    },
}
