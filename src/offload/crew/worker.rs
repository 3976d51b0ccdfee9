//! [`Worker`], what a thread does for a pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::{Crew, Found};
use super::parker::{Parker, Signal};
use super::rules::Stay;
use crate::offload::task::wake;

/// One that runs tasks, and holds a token when it begins.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `None` from the beginning on.
    crew: Option<Arc<Crew>>,
    pub(super) is_coming: bool,
    pub(super) is_searching: bool,
    /// Where it is signalled when it is idle. `None` if it does not stay then.
    pub(super) parker: Option<Arc<Parker>>,
    /// Its place among those that run tasks.
    pub(super) slot: Option<usize>,
}

impl Worker {
    pub(super) fn new(crew: Arc<Crew>) -> Self {
        Self { crew: Some(crew), is_coming: true, is_searching: false, parker: None, slot: None }
    }

    /// Runs tasks until there are none for a while.
    pub(crate) fn work(mut self) {
        let Some(crew) = self.crew.take() else { return };
        match crew.rules.stay {
            Some(stay) => self.work_and_stay(&crew, stay),
            None => self.work_once(&crew),
        }
    }

    /// It will not work.
    pub(super) fn retire(mut self) {
        self.crew = None;
    }

    fn work_and_stay(&mut self, crew: &Arc<Crew>, Stay { linger, shift }: Stay) {
        let parker = Arc::<Parker>::default();
        self.parker = Some(Arc::clone(&parker));
        let begun = Instant::now();
        loop {
            if self.work_while_there_is_some(crew, || begun.elapsed() >= shift) {
                return;
            }
            match Self::wait(crew, &parker, linger) {
                Signal::Work => self.is_searching = true,
                Signal::Leave => return,
            }
        }
    }

    /// Runs tasks until it is idle. Whether it goes instead.
    fn work_while_there_is_some(&mut self, crew: &Arc<Crew>, is_shift_over: impl Fn() -> bool) -> bool {
        let mut found = crew.next(self, false);
        loop {
            let (job, call) = match found {
                Found::Task(job, call) => (job, call),
                Found::Searching => {
                    found = crew.next(self, false);
                    continue;
                }
                Found::Nothing { stays } => return !stays,
            };
            crew.make(call);
            Arc::clone(&job).run();
            // All that is decided before the result is told.
            found = if is_shift_over() {
                crew.clock_out(self);
                Found::Nothing { stays: false }
            } else if crew.must_yield() {
                Found::Nothing { stays: crew.rest(self) }
            } else {
                crew.next(self, true)
            };
            wake(job.publish());
        }
    }

    /// Waits as an idle worker.
    fn wait(crew: &Arc<Crew>, parker: &Arc<Parker>, linger: Duration) -> Signal {
        match parker.park_for(linger) {
            Some(signal) => signal,
            None if crew.dismiss(parker) => Signal::Leave,
            // It was called just now, or all are dismissed.
            None => parker.park(),
        }
    }

    /// Runs one task, and has the next one begun like the first: the threads are not the pool's to keep.
    fn work_once(&mut self, crew: &Arc<Crew>) {
        let Found::Task(job, call) = crew.next(self, false) else { return };
        crew.make(call);
        Arc::clone(&job).run();
        crew.clock_out(self);
        wake(job.publish());
    }
}

impl Drop for Worker {
    /// It never began: its runtime is gone.
    fn drop(&mut self) {
        if let Some(crew) = self.crew.take() {
            crew.lose();
        }
    }
}
