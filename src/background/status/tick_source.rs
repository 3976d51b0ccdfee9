//! [`TickSource`], the calls of a periodic service as its host sees them.

use std::fmt::Debug;
use std::sync::Arc;

use super::tick_status::TickStatus;

/// Counts and triggers the calls of a periodic service.
pub(crate) trait TickSource: Debug + Send + Sync {
    /// Returns the option of the schedule that makes no sense, and what is wrong with it.
    fn problem(&self) -> Option<(&'static str, &'static str)>;

    /// Returns the calls so far.
    fn status(&self) -> Arc<TickStatus>;

    /// Requests a call in addition to the schedule.
    fn trigger(&self);
}
