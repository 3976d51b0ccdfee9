//! [`WorkerState`], which decides from the readings of a worker whether the worker is blocked.

use std::time::{Duration, Instant};

/// The counters that tokio publishes for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    /// The number of parks and unparks. The worker is parked while the number is odd.
    pub(super) park_unpark: u64,
    pub(super) busy: Duration,
}

/// One reading of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) counters: Counters,
    /// The count of task changes on the worker's thread. `None` while the thread is unknown.
    pub(super) tasks: Option<u64>,
}

/// The state of a worker between two readings.
#[derive(Debug)]
pub(super) struct WorkerState {
    last: Reading,
    /// When the worker was first read in its present state.
    since: Instant,
    /// How long the worker has been stuck in that state. Time in which the watch itself did not run is not included.
    stuck_for: Duration,
    /// How long the worker has to be stuck until the next report.
    report_at: Duration,
    is_reported: bool,
}

/// A change of a worker that the watch reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The worker has not returned to its scheduler since `since`: for the threshold, or twice or four times as long,
    /// and so on.
    Blocked { since: Instant },
    /// The worker was reported as blocked, and has returned to its scheduler.
    Recovered,
}

impl WorkerState {
    pub(super) fn new(now: Instant, reading: Reading, threshold: Duration) -> Self {
        Self { last: reading, since: now, stuck_for: Duration::ZERO, report_at: threshold, is_reported: false }
    }

    /// Returns the counters of the last reading.
    pub(super) fn counters(&self) -> Counters {
        self.last.counters
    }

    /// Returns `true` if the last reading began the present state.
    pub(super) fn is_new(&self) -> bool {
        self.stuck_for.is_zero()
    }

    /// Compares a reading with the last one. `seen` is the time between both, without the time in which the watch
    /// itself did not run.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        seen: Duration,
        reading: Reading,
        threshold: Duration,
    ) -> Option<Change> {
        if reading.is_stuck_since(self.last) {
            self.last = reading;
            self.stuck_for += seen;
            if self.stuck_for < self.report_at {
                return None;
            }
            while self.report_at <= self.stuck_for {
                self.report_at = self.report_at.saturating_mul(2);
            }
            self.is_reported = true;
            return Some(Change::Blocked { since: self.since });
        }
        let recovered = self.is_reported.then_some(Change::Recovered);
        *self = Self::new(now, reading, threshold);
        recovered
    }
}

impl Reading {
    /// Returns `true` if the worker has not returned to its scheduler since an earlier reading.
    ///
    /// tokio updates both counters when a worker parks or unparks, and every 61 turns of its scheduler (the
    /// `event_interval`). Between these updates, a change of the task on the worker's thread shows that the worker
    /// makes progress.
    pub(super) fn is_stuck_since(self, earlier: Self) -> bool {
        let is_active = self.counters.park_unpark.is_multiple_of(2);
        let has_progressed = self.tasks.zip(earlier.tasks).is_some_and(|(tasks, earlier)| tasks != earlier);
        is_active && self.counters == earlier.counters && !has_progressed
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const THRESHOLD: Duration = Duration::from_millis(100);
    const TICK: Duration = Duration::from_millis(20);
    const ACTIVE: Reading = reading(4, 1_000);

    const fn reading(park_unpark: u64, busy_millis: u64) -> Reading {
        Reading { counters: Counters { park_unpark, busy: Duration::from_millis(busy_millis) }, tasks: Some(7) }
    }

    /// Observes one reading for each tick. Returns the tick of each change, with the tick at which the block began.
    fn changes(readings: impl IntoIterator<Item = Reading>) -> Vec<(u32, Option<u32>)> {
        let start = Instant::now();
        let mut readings = readings.into_iter();
        let mut state = WorkerState::new(start, readings.next().expect("there is a reading"), THRESHOLD);
        let ticks_until = |at: Instant| (at.duration_since(start).as_millis() / TICK.as_millis()) as u32;
        let observe =
            |(reading, tick): (Reading, u32)| match state.observe(start + TICK * tick, TICK, reading, THRESHOLD)? {
                Change::Blocked { since } => Some((tick, Some(ticks_until(since)))),
                Change::Recovered => Some((tick, None)),
            };
        readings.zip(1..).filter_map(observe).collect()
    }

    #[test]
    fn worker_in_one_poll_is_reported_at_the_threshold_and_each_time_the_time_has_doubled() {
        let readings = [ACTIVE; 42].into_iter().chain([reading(5, 1_000); 10]);
        let expected = [(5, Some(0)), (10, Some(0)), (20, Some(0)), (40, Some(0)), (42, None)];
        assert_eq!(changes(readings), expected);
    }

    #[test]
    fn worker_that_makes_progress_or_is_parked_is_not_reported() {
        let parked = [reading(5, 1_000); 50];
        let maintains = (0..50).map(|tick| reading(4, tick));
        let parks_and_unparks = (0..50).map(|tick| reading(tick * 2, 1_000));
        let changes_tasks = (0..50).map(|tick| Reading { tasks: Some(tick), ..ACTIVE });
        assert_eq!(changes(parked), []);
        assert_eq!(changes(maintains), []);
        assert_eq!(changes(parks_and_unparks), []);
        assert_eq!(changes(changes_tasks), []);
    }

    #[test]
    fn progress_restarts_the_time() {
        let readings = [ACTIVE; 4].into_iter().chain([reading(4, 2_000); 6]);
        assert_eq!(changes(readings), [(9, Some(4))]);
    }

    #[test]
    fn thread_that_becomes_known_while_the_worker_is_stuck_is_no_progress() {
        let unknown = Reading { tasks: None, ..ACTIVE };
        assert_eq!(changes([unknown, ACTIVE, unknown, ACTIVE, ACTIVE, ACTIVE]), [(5, Some(0))]);
    }

    #[test]
    fn time_in_which_the_watch_did_not_run_does_not_count() {
        let start = Instant::now();
        let mut state = WorkerState::new(start, ACTIVE, THRESHOLD);
        let hour = Duration::from_secs(3_600);
        assert_eq!(state.observe(start + hour, TICK, ACTIVE, THRESHOLD), None);
        assert_eq!(state.observe(start + hour * 2, TICK, ACTIVE, THRESHOLD), None);
    }
}
