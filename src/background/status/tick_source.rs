//! [`TickSource`], the calls of a periodic service as its host sees them.

use std::fmt::Debug;

use super::tick_status::TickStatus;

/// A periodic service, as its host sees it.
pub(crate) trait TickSource: Debug + Send + Sync {
    /// Returns an invalid option of the schedule and what is wrong with it, if there is one.
    fn problem(&self) -> Option<(&'static str, &'static str)>;

    /// Returns the calls so far.
    fn status(&self) -> TickStatus;

    /// Requests a call in addition to the schedule.
    fn trigger(&self);
}
