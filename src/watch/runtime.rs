//! [`WatchedRuntime`], a runtime as a watch samples it.

use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id, RuntimeMetrics};

use super::lag_probe::LagProbe;
use super::report::{Blocked, Recovered, Report};
use super::slot::{PollId, SlotView, SlowMark, slots_of};
use super::stack::Capture;
use super::worker_state::{Change, Counters, Reading, WorkerState};
use super::worker_threads::WorkerThreads;

/// A runtime, with the state of each of its workers.
#[derive(Debug)]
pub(super) struct WatchedRuntime {
    handle: Handle,
    metrics: RuntimeMetrics,
    workers: Vec<Worker>,
    probe: LagProbe,
}

#[derive(Debug)]
struct Worker {
    state: WorkerState,
    threads: WorkerThreads,
    /// The first poll with a label that the watch has seen in the present state of the worker.
    poll: Option<PollId>,
    /// The last report. `None` unless the worker is blocked.
    report: Option<Blocked>,
    /// The mark of the poll that the last report names.
    mark: Option<SlowMark>,
}

/// The time of a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    pub(super) now: Instant,
    /// The time since the last sample, without the time in which the watch itself did not run.
    pub(super) seen: Duration,
    pub(super) threshold: Duration,
    /// `None` if the watch captures no stacks.
    pub(super) capture: Option<&'a Capture>,
}

impl WatchedRuntime {
    pub(super) fn new(handle: Handle, now: Instant, threshold: Duration) -> Self {
        let metrics = handle.metrics();
        let workers = 0..metrics.num_workers();
        let mut runtime = Self { handle, metrics, workers: Vec::new(), probe: LagProbe::new(now) };
        let worker = |index| {
            let state = WorkerState::new(now, Reading { counters: runtime.read(index), tasks: None }, threshold);
            Worker { state, threads: WorkerThreads::default(), poll: None, report: None, mark: None }
        };
        runtime.workers = workers.map(worker).collect();
        // The thread that polls the first task becomes known.
        runtime.probe.measure(&runtime.handle, false, now);
        runtime
    }

    pub(super) fn id(&self) -> Id {
        self.handle.id()
    }

    pub(super) fn lag(&self) -> Duration {
        self.probe.lag()
    }

    /// Returns the last report of each worker that is blocked.
    pub(super) fn blocked(&self) -> impl Iterator<Item = &Blocked> {
        self.workers.iter().filter_map(|worker| worker.report.as_ref())
    }

    /// Reads all workers, and passes each change to `report`. Returns `false` if the runtime has shut down.
    pub(super) fn sample(&mut self, sample: Sample<'_>, mut report: impl FnMut(Report)) -> bool {
        let mut workers = 0..self.workers.len();
        let is_idle = workers.clone().all(|worker| self.metrics.worker_park_unpark_count(worker) % 2 == 1);
        let slots = slots_of(self.id());
        self.probe.measure(&self.handle, is_idle, sample.now);
        // The counters of a runtime that has shut down stand still, too.
        let is_alive =
            !self.probe.is_dropped() && workers.all(|index| self.sample_worker(index, &slots, sample, &mut report));
        if !is_alive {
            // Not an event: a thread of the runtime may still be blocked.
            let recovered = self.workers.iter_mut().filter_map(|worker| worker.recover(sample.now));
            recovered.map(Recovered::without_event).map(Report::Recovered).for_each(report);
        }
        is_alive
    }

    /// Reads one worker. Returns `false` if the runtime has shut down.
    fn sample_worker(
        &mut self,
        index: usize,
        slots: &[SlotView],
        sample: Sample<'_>,
        report: &mut impl FnMut(Report),
    ) -> bool {
        let Sample { now, seen, threshold, capture } = sample;
        let counters = self.read(index);
        let worker = &mut self.workers[index];
        let has_progressed = counters != worker.state.counters();
        let slot = worker.threads.current(slots.iter().filter(|slot| slot.worker == Some(index)), has_progressed);
        let reading = Reading { counters, tasks: slot.map(|slot| slot.tasks) };
        let change = worker.state.observe(now, seen, reading, threshold);
        if worker.state.is_new() {
            worker.poll = None;
        }
        worker.poll = worker.poll.or(slot.filter(|slot| slot.poll.label().is_some()).map(SlotView::poll_id));
        match change {
            None => {}
            Some(Change::Recovered) => worker.recover(now).map(Report::Recovered).into_iter().for_each(report),
            Some(Change::Blocked { .. })
                if worker.report.is_none() && self.probe.is_runtime_gone(&self.handle, now) =>
            {
                return false;
            }
            Some(Change::Blocked { since }) => {
                let mut blocked = Blocked::new(self.handle.id(), index, since, now);
                if let Some(slot) = slot {
                    // Otherwise several polls have blocked the worker together.
                    if worker.poll == Some(slot.poll_id()) {
                        worker.mark = slot.mark_slow(since);
                    }
                    blocked = blocked.with_thread(slot, capture);
                }
                if let Some(last) = &worker.report {
                    blocked = blocked.repeating(last);
                }
                worker.report = Some(blocked.clone());
                report(Report::Blocked(blocked));
            }
        }
        true
    }

    fn read(&self, worker: usize) -> Counters {
        Counters {
            park_unpark: self.metrics.worker_park_unpark_count(worker),
            busy: self.metrics.worker_total_busy_duration(worker),
        }
    }
}

impl Worker {
    /// Returns the report of the recovery, if the worker was reported as blocked.
    fn recover(&mut self, now: Instant) -> Option<Recovered> {
        let last = self.report.take()?;
        let mark = self.mark.take();
        let is_one_poll = mark.is_some();
        let is_logged = mark.is_some_and(|mark| !mark.withdraw());
        Some(Recovered::new(last, now, is_one_poll, is_logged))
    }
}
