//! [`GuardStats`], what a guard has done so far and does right now.

use std::time::Duration;

use super::core::Core;
use crate::counter::Counter;
use crate::semaphore::SemaphoreSnapshot;

/// What a guard has done so far and does right now, read without a lock.
///
/// Each number is exact; between two numbers of one reading a moment may have passed. Counters start at 0 and never
/// go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct GuardStats {
    /// The guard's name.
    pub name: &'static str,
    /// How many callers may be inside at once; of a keyed guard, for each key.
    pub permits: usize,
    /// Permits in use, those set aside for a caller whose turn has just come among them.
    pub held: usize,
    /// Callers in the queue.
    pub waiting: usize,
    /// Runs that go on although their caller has left.
    pub detached: u64,
    /// The guard was closed.
    pub closed: bool,
    /// The mean time for which permits were held lately: of the first hold, and of samples taken while callers wait or are
    /// refused.
    ///
    /// With the feature `serde` it is serialized as seconds, a float, under the name `mean_hold_seconds`.
    #[cfg_attr(feature = "serde", serde(rename = "mean_hold_seconds", serialize_with = "seconds"))]
    pub mean_hold: Option<Duration>,

    /// WaitQueue given: permits taken at once, and permits set aside for callers in the queue.
    pub granted: u64,
    /// Callers that had to wait.
    pub queued: u64,
    /// Callers of `acquire` and its relatives that were turned away: at once, since the queue was full, closed or absent
    /// or they would have waited for themselves, or from the queue when the guard was closed. A `try_acquire` that finds
    /// the guard busy has asked, and is not counted.
    pub refused: u64,
    /// Callers whose turn did not come within `max_wait`.
    pub timed_out: u64,
    /// Callers that left while they waited.
    pub cancelled: u64,
    /// WaitQueue taken back because they were not used within `grant_timeout`.
    pub expired: u64,
    /// Permits that were dropped while their thread panicked.
    pub panicked: u64,
    /// Runs that ended after their caller had left, completely.
    pub finished_detached: u64,
    /// Runs that were dropped after their caller had left, before their end: by `max_run`, or with their runtime.
    pub cut_off: u64,
    /// Permits that went on before their response body had ended, because that took longer than `body_hold_max`.
    pub overrun: u64,
}

#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&duration.map(|duration| duration.as_secs_f64()), serializer)
}

/// The counters that no other part of the guard keeps anyway.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) refused: Counter,
    pub(crate) timed_out: Counter,
    pub(crate) expired: Counter,
    pub(crate) panicked: Counter,
    pub(crate) detached: Counter,
    pub(crate) gone_detached: Counter,
    pub(crate) finished_detached: Counter,
    pub(crate) cut_off: Counter,
    pub(crate) overrun: Counter,
}

impl Counters {
    pub(crate) const fn new() -> Self {
        Self {
            refused: Counter::new(),
            timed_out: Counter::new(),
            expired: Counter::new(),
            panicked: Counter::new(),
            detached: Counter::new(),
            gone_detached: Counter::new(),
            finished_detached: Counter::new(),
            cut_off: Counter::new(),
            overrun: Counter::new(),
        }
    }
}

impl Core {
    /// What a guard does whose lanes are, taken together, in the state `lanes`.
    pub(super) fn stats(&self, permits: usize, lanes: SemaphoreSnapshot, queued: u64, cancelled: u64) -> GuardStats {
        let counters = &self.counters;
        GuardStats {
            name: self.name,
            permits,
            held: lanes.held,
            waiting: lanes.waiting,
            detached: counters.detached.value().saturating_sub(counters.gone_detached.value()),
            closed: lanes.is_closed,
            mean_hold: self.hold_time.mean(),
            granted: lanes.granted,
            queued,
            refused: counters.refused.value(),
            timed_out: counters.timed_out.value(),
            cancelled,
            expired: counters.expired.value(),
            panicked: counters.panicked.value(),
            finished_detached: counters.finished_detached.value(),
            cut_off: counters.cut_off.value(),
            overrun: counters.overrun.value(),
        }
    }
}
