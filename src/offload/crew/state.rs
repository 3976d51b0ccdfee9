//! [`State`], what a crew decides on, behind its mutex.

use std::sync::Arc;

use super::parker::Parker;
use super::queue::JobQueue;
use super::worker::Worker;
use crate::lane::Ticket;
use crate::offload::error::OffloadError;
use crate::offload::task::Work;

/// Who waits, who is idle, and what runs.
pub(super) struct State {
    pub(super) queue: JobQueue<Arc<dyn Work>>,
    /// The one that came last on top: its caches are warm, and the others can go.
    pub(super) idle: Vec<Arc<Parker>>,
    pub(super) is_searching: bool,
    /// The place in the line for a token.
    pub(super) ticket: Option<Ticket>,
    /// What runs, by worker.
    pub(super) running: Vec<Option<Arc<dyn Work>>>,
    pub(super) closed: Option<OffloadError>,
    pub(super) counts: Counts,
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

    /// A worker runs nothing any more, and is idle if it stays. What it ran.
    pub(super) fn leave(&mut self, worker: &mut Worker) -> Option<Arc<dyn Work>> {
        if self.closed.is_none() {
            self.idle.extend(worker.parker.clone());
        }
        worker.slot.take().and_then(|slot| self.running[slot].take())
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            queue: JobQueue::new(),
            idle: Vec::new(),
            is_searching: false,
            ticket: None,
            running: Vec::new(),
            closed: None,
            counts: Counts::default(),
        }
    }
}
