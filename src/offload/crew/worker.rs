//! [`Worker`], what a thread does for a pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::{Crew, Found};
use super::parker::{Parker, Signal};
use crate::offload::task::wake;

/// After how long a worker gives its thread back between two tasks, and takes the next one that is free: if the runtime has
/// few threads, others wait for them, too.
const SHIFT: Duration = Duration::from_millis(10);

/// One that runs tasks, and holds a token when it begins.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `None` from the beginning on.
    crew: Option<Arc<Crew>>,
    pub(super) is_searching: bool,
    /// Where it is signalled when it is idle. `None` if it does not stay then.
    pub(super) parker: Option<Arc<Parker>>,
    /// Its place among those that run tasks.
    pub(super) slot: Option<usize>,
}

impl Worker {
    pub(super) fn new(crew: Arc<Crew>, is_searching: bool) -> Self {
        Self { crew: Some(crew), is_searching, parker: None, slot: None }
    }

    /// Runs tasks until there are none for a while.
    pub(crate) fn work(mut self) {
        let Some(crew) = self.crew.take() else { return };
        match crew.rules.linger {
            Some(linger) => self.work_and_stay(&crew, linger),
            None => self.work_once(&crew),
        }
    }

    fn work_and_stay(&mut self, crew: &Crew, linger: Duration) {
        let parker = Arc::<Parker>::default();
        self.parker = Some(Arc::clone(&parker));
        let begun = Instant::now();
        let mut found = crew.next(self, false);
        loop {
            match found {
                Found::Task(job, call) => {
                    crew.make(call);
                    let waker = job.run();
                    if crew.must_yield() {
                        let is_open = crew.rest(self);
                        crew.give_back();
                        wake(waker);
                        if !is_open {
                            return;
                        }
                    } else if begun.elapsed() >= SHIFT && crew.has_more() {
                        self.parker = None;
                        crew.rest(self);
                        crew.begin(false);
                        return wake(waker);
                    } else {
                        // Who is woken often has the next task at once, and need not call another worker for it.
                        found = crew.next(self, true);
                        wake(waker);
                        continue;
                    }
                }
                Found::Searching => {
                    found = crew.next(self, false);
                    continue;
                }
                Found::Nothing => crew.give_back(),
                Found::Closed => return crew.give_back(),
            }
            match Self::wait(crew, &parker, linger) {
                Signal::Work => self.is_searching = true,
                Signal::Leave => return,
            }
            found = crew.next(self, false);
        }
    }

    /// Waits as an idle worker.
    fn wait(crew: &Crew, parker: &Arc<Parker>, linger: Duration) -> Signal {
        match parker.park_for(linger) {
            Some(signal) => signal,
            None if crew.dismiss(parker) => Signal::Leave,
            // It was called just now, or all are dismissed.
            None => parker.park(),
        }
    }

    /// Runs one task, and has the next one begun like the first: the threads are not the pool's to keep.
    fn work_once(&mut self, crew: &Crew) {
        let Found::Task(job, call) = crew.next(self, false) else { return crew.give_back() };
        crew.make(call);
        let waker = job.run();
        crew.rest(self);
        if !crew.must_yield() && crew.has_more() {
            crew.begin(false);
        } else {
            crew.give_back();
        }
        wake(waker);
    }
}

impl Drop for Worker {
    /// It never began: its runtime is gone.
    fn drop(&mut self) {
        if let Some(crew) = self.crew.take() {
            crew.lose(self);
        }
    }
}
