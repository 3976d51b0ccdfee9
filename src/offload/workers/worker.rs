//! [`Worker`], what a thread does for a pool.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::config::KeepAlive;
use super::parker::{Parker, Signal};
use super::scheduling::Found;
use super::workers::Workers;
use crate::offload::task::{TaskContext, wake};
use crate::panic::discard;

/// One that runs tasks.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `None` from the beginning on.
    crew: Option<Arc<Workers>>,
    /// It has one when it is called.
    pub(super) has_token: bool,
    pub(super) is_coming: bool,
    pub(super) is_searching: bool,
    /// Where it is signalled when it is idle. `None` if it does not stay then.
    pub(super) parker: Option<Arc<Parker>>,
    /// Its place among those that run tasks.
    pub(super) slot: Option<usize>,
}

impl Worker {
    pub(super) fn new(crew: Arc<Workers>) -> Self {
        Self { crew: Some(crew), has_token: true, is_coming: true, is_searching: false, parker: None, slot: None }
    }

    /// Runs tasks until there are none for a while.
    pub(crate) fn work(mut self) {
        let Some(crew) = self.crew.take() else { return };
        let KeepAlive { shift, linger, .. } = crew.rules.stay;
        // Within a task, as rayon does it where that one waits for its parts, it goes at once: they may be there.
        let shift = if TaskContext::current().is_some() { Duration::ZERO } else { shift };
        self.parker = linger.map(|_| Arc::default());
        let begun = Instant::now();
        while !self.work_while_there_is_some(&crew, || begun.elapsed() >= shift) {
            match self.wait(&crew) {
                Signal::Work => (self.is_searching, self.has_token) = (true, true),
                Signal::Leave => return,
            }
        }
    }

    /// It will not work.
    pub(super) fn retire(mut self) {
        self.crew = None;
    }

    /// Runs tasks until it is idle. Whether it goes instead.
    fn work_while_there_is_some(&mut self, crew: &Arc<Workers>, is_shift_over: impl Fn() -> bool) -> bool {
        let mut found = crew.first(self);
        loop {
            let job = match found {
                Found::Task(job) => job,
                Found::Searching => {
                    Self::look_out(crew);
                    found = crew.first(self);
                    continue;
                }
                Found::Nothing { stays } => return !stays,
            };
            Arc::clone(&job).run();
            // All that is decided before the result is told.
            found = if is_shift_over() {
                crew.clock_out(self);
                Found::Nothing { stays: false }
            } else {
                crew.go_on(self)
            };
            let waker = job.publish();
            // It may be the last one who has it, and what is around the task is the user's.
            discard(job);
            if !matches!(found, Found::Task(..)) {
                crew.has_published();
            }
            wake(waker);
        }
    }

    /// Waits a moment for a task to come. Other threads have the processor meanwhile, if they want it.
    fn look_out(crew: &Workers) {
        for _ in 1..crew.rules.stay.looks {
            if crew.rules.queued() > 0 {
                return;
            }
            thread::yield_now();
        }
    }

    /// Waits as an idle worker.
    fn wait(&self, crew: &Arc<Workers>) -> Signal {
        let (Some(parker), Some(linger)) = (&self.parker, crew.rules.stay.linger) else { return Signal::Leave };
        match parker.park_for(linger) {
            Some(signal) => signal,
            None if crew.dismiss(parker) => Signal::Leave,
            // It was called just now, or all are dismissed.
            None => parker.park(),
        }
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
