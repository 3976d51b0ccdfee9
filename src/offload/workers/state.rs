//! [`WorkersState`], the state of [`Workers`] behind their mutex.

use std::sync::Arc;

use super::parker::Parker;
use super::queue::JobQueue;
use super::worker::Worker;
use super::workers::{WorkerActivation, Workers};
use crate::offload::error::OffloadErrorKind;
use crate::offload::job::SharedJob;
use crate::semaphore::WaiterId;

/// The tasks that are queued and running, and the workers that are idle, searching or starting.
#[derive(Default)]
pub(super) struct WorkersState {
    pub(super) queue: JobQueue<SharedJob>,
    /// The worker that became idle last is on top: its caches are warm, and the others can time out.
    pub(super) idle: Vec<Arc<Parker>>,
    /// A worker on its thread is about to check the queue.
    pub(super) is_searching: bool,
    /// The searching worker was activated, and holds a token.
    pub(super) searcher_has_token: bool,
    /// A spawned worker does not have its thread yet. The worker holds a token.
    pub(super) is_starting: bool,
    pub(super) token_wait: Option<TokenWait>,
    /// The running tasks, by the slot of their worker.
    pub(super) running: Vec<Option<SharedJob>>,
    /// Why the workers accept no tasks. `None` while they accept tasks.
    pub(super) closed: Option<OffloadErrorKind>,
    /// The last handle of the pool is gone, so workers that find no task are not needed any more.
    pub(super) is_released: bool,
    pub(super) started: u64,
    pub(super) refused: u64,
}

/// The workers' place in the limiter's queue.
pub(super) struct TokenWait {
    pub(super) waiter: Option<WaiterId>,
    /// Keeps the workers alive: this may be the only reference to them, and their tasks wait for this token.
    pub(super) _workers: Arc<Workers>,
}

/// A snapshot of [`Workers`].
pub(crate) struct WorkersSnapshot {
    pub(crate) running: Vec<SharedJob>,
    pub(crate) queued: usize,
    pub(crate) idle: usize,
    pub(crate) started: u64,
    pub(crate) refused: u64,
}

impl WorkersState {
    pub(super) fn is_drained(&self) -> bool {
        self.closed.is_some() && self.running.iter().all(Option::is_none)
    }

    /// Records the task that a worker runs from now on. Returns the task that the worker ran before.
    pub(super) fn record_running(&mut self, worker: &mut Worker, job: SharedJob) -> Option<SharedJob> {
        let slot = *worker.slot.get_or_insert_with(|| {
            let free = self.running.iter().position(Option::is_none);
            free.unwrap_or_else(|| {
                self.running.push(None);
                self.running.len() - 1
            })
        });
        self.running[slot].replace(job)
    }

    /// Records that a worker runs no task at the moment. Returns the task that the worker ran.
    pub(super) fn clear_running(&mut self, worker: &mut Worker) -> Option<SharedJob> {
        worker.slot.take().and_then(|slot| self.running[slot].take())
    }

    /// Makes a worker idle, unless it has to leave its thread. Returns `true` if it is idle.
    ///
    /// The worker leaves if another worker waits for a thread, since that thread may be this one.
    pub(super) fn make_idle(&mut self, worker: &Worker) -> bool {
        let is_needed = self.closed.is_none() && !self.is_released;
        let is_idle = is_needed && !self.is_starting && worker.parker.is_some();
        if is_idle {
            self.idle.extend(worker.parker.clone());
        }
        is_idle
    }

    /// Takes the place in the limiter's queue if no queued task needs the token.
    pub(super) fn take_unneeded_token_wait(&mut self) -> Option<TokenWait> {
        if self.queue.is_empty() { self.token_wait.take() } else { None }
    }

    /// Returns `true` if tasks are queued and no worker is about to check the queue.
    pub(super) fn needs_worker(&self) -> bool {
        // A starting worker may wait for its thread for a long time, so an idle one is activated nevertheless.
        let is_expected = self.is_searching || (self.is_starting && self.idle.is_empty());
        !self.queue.is_empty() && !is_expected && self.closed.is_none()
    }

    /// Chooses the worker that gets the token just acquired.
    pub(super) fn activate_worker(&mut self) -> WorkerActivation {
        match self.idle.pop() {
            Some(worker) => {
                (self.is_searching, self.searcher_has_token) = (true, true);
                WorkerActivation::Unpark(worker)
            }
            None => {
                self.is_starting = true;
                WorkerActivation::Spawn
            }
        }
    }
}
