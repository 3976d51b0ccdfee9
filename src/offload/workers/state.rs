//! [`State`], what a crew decides on, behind its mutex.

use std::sync::Arc;

use super::parker::Parker;
use super::queue::JobQueue;
use super::worker::Worker;
use super::workers::{Call, Workers};
use crate::offload::error::OffloadError;
use crate::offload::task::Work;
use crate::semaphore::WaiterId;

/// Who waits, who is idle, and what runs.
pub(super) struct State {
    pub(super) queue: JobQueue<Arc<dyn Work>>,
    /// The one that came last on top: its caches are warm, and the others can go.
    pub(super) idle: Vec<Arc<Parker>>,
    /// Whether a worker on its thread looks for a task now.
    pub(super) is_searching: bool,
    /// Whether that one was called, and has a token for it.
    pub(super) is_called: bool,
    /// Whether a worker was begun that has no thread yet. It has a token.
    pub(super) is_coming: bool,
    /// The place in the line for a token.
    pub(super) line: Option<InLine>,
    /// What runs, by worker.
    pub(super) running: Vec<Option<Arc<dyn Work>>>,
    pub(super) closed: Option<OffloadError>,
    pub(super) counts: Counts,
}

/// A place in the line for a token.
pub(super) struct InLine {
    pub(super) ticket: Option<WaiterId>,
    /// Keeps the crew, which nobody else may: its tasks wait for that token.
    pub(super) _crew: Arc<Workers>,
}

/// How a crew has fared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) started: u64,
    pub(crate) refused: u64,
}

/// A crew at one moment.
pub(crate) struct Look {
    pub(crate) running: Vec<Arc<dyn Work>>,
    pub(crate) queued: usize,
    pub(crate) idle: usize,
    pub(crate) counts: Counts,
}

impl State {
    pub(super) fn is_drained(&self) -> bool {
        self.closed.is_some() && self.running.iter().all(Option::is_none)
    }

    /// Takes down what a worker runs. What it ran before.
    pub(super) fn enter(&mut self, worker: &mut Worker, job: Arc<dyn Work>) -> Option<Arc<dyn Work>> {
        let slot = *worker.slot.get_or_insert_with(|| {
            let free = self.running.iter().position(Option::is_none);
            free.unwrap_or_else(|| {
                self.running.push(None);
                self.running.len() - 1
            })
        });
        self.running[slot].replace(job)
    }

    /// A worker runs nothing at the moment. What it ran.
    pub(super) fn clear(&mut self, worker: &mut Worker) -> Option<Arc<dyn Work>> {
        worker.slot.take().and_then(|slot| self.running[slot].take())
    }

    /// A worker runs nothing any more. What it ran, and whether it is idle from now on. If not, it goes.
    ///
    /// It does not stay where another one waits for a thread: perhaps for its own.
    pub(super) fn leave(&mut self, worker: &mut Worker) -> (Option<Arc<dyn Work>>, bool) {
        let ran = self.clear(worker);
        let stays = self.closed.is_none() && !self.is_coming && worker.parker.is_some();
        if stays {
            self.idle.extend(worker.parker.clone());
        }
        (ran, stays)
    }

    /// The place in the line, which is for those who wait, if nobody does.
    pub(super) fn line_of_nobody(&mut self) -> Option<InLine> {
        if self.queue.is_empty() { self.line.take() } else { None }
    }

    /// Whether somebody will look for the tasks that wait, or none do.
    pub(super) fn is_provided_for(&self) -> bool {
        // One that is coming may wait for its thread for long. So somebody who has one is called nevertheless.
        self.queue.is_empty() || self.is_searching || (self.is_coming && self.idle.is_empty()) || self.closed.is_some()
    }

    /// Calls a worker, who has a token.
    pub(super) fn call(&mut self) -> Call {
        match self.idle.pop() {
            Some(worker) => {
                (self.is_searching, self.is_called) = (true, true);
                Call::Unpark(worker)
            }
            None => {
                self.is_coming = true;
                Call::Begin
            }
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            queue: JobQueue::new(),
            idle: Vec::new(),
            is_searching: false,
            is_called: false,
            is_coming: false,
            line: None,
            running: Vec::new(),
            closed: None,
            counts: Counts::default(),
        }
    }
}
