//! [`GuardStats`], a snapshot of a guard's state and counters.

use std::borrow::Cow;
use std::time::Duration;

/// A snapshot of a guard's state and counters, taken without a lock.
///
/// Each number is exact, but the numbers of one snapshot are not read at the same moment. Counters start at 0 and never
/// decrease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct GuardStats {
    /// The guard's name.
    pub name: Cow<'static, str>,
    /// The number of permits. A keyed guard has this many for each key.
    pub permits: usize,
    /// Permits in use, including those granted to callers that have not taken them yet.
    pub held: usize,
    /// Callers in the queue.
    pub waiting: usize,
    /// Runs that continue without their caller.
    pub detached: u64,
    /// `true` after the guard was closed.
    pub closed: bool,
    /// The mean time for which permits were held recently: of the first hold, and of samples taken while callers wait
    /// or are refused.
    ///
    /// With the feature `serde` it is serialized as seconds, a float, under the name `mean_hold_seconds`.
    #[cfg_attr(feature = "serde", serde(rename = "mean_hold_seconds", serialize_with = "seconds"))]
    pub mean_hold: Option<Duration>,

    /// Permits acquired at once, and permits granted to callers in the queue.
    pub granted: u64,
    /// Callers that had to wait.
    pub queued: u64,
    /// Callers of `acquire` and its variants that were refused. A caller is refused at once if the queue is full or
    /// absent, if the guard is closed, or if the caller would wait for itself. Closing the guard also refuses the
    /// callers in the queue. A `try_acquire` that finds the guard busy is not counted.
    pub refused: u64,
    /// Callers that did not get a permit within `max_wait`.
    pub timed_out: u64,
    /// Callers that were cancelled while they waited.
    pub cancelled: u64,
    /// Grants that were revoked because they were not taken within `grant_timeout`.
    pub expired: u64,
    /// Permits that were dropped while their thread panicked.
    pub panicked: u64,
    /// Runs that completed without their caller.
    pub finished_detached: u64,
    /// Runs without a caller that were dropped before they completed: because of `max_run`, because their runtime
    /// ended, or because their caller was dropped outside of a runtime.
    pub cut_off: u64,
    /// Permits that were [forgotten](super::HeldPermit::forget), which stay held permanently.
    pub forgotten: u64,
    /// Permits that were released before their response body had ended, because the body took longer than
    /// `body_hold_max`.
    pub overrun: u64,
}

#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&duration.map(|duration| duration.as_secs_f64()), serializer)
}
