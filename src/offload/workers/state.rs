//! [`WorkersState`], the state of [`Workers`] behind their mutex.

use std::mem;
use std::sync::Arc;

use super::parker::Parker;
use super::queue::JobQueue;
use super::worker::Worker;
use super::workers::{WorkerActivation, Workers};
use crate::offload::error::OffloadErrorKind;
use crate::offload::job::SharedJob;
use crate::semaphore::WaiterId;
use crate::sync::ThreadId;

/// The tasks that are queued and running, and the workers that are idle, searching or starting.
#[derive(Default)]
pub(super) struct WorkersState {
    pub(super) queue: JobQueue<SharedJob>,
    /// How many queued tasks have the promise of a free token.
    pub(super) promised: usize,
    /// How many queued tasks have neither a promise nor the granted token, as counted for the bound of the queue.
    pub(super) waiting: usize,
    /// The worker that became idle last is on top: its caches are warm, and the others can time out.
    pub(super) idle: Vec<Arc<Parker>>,
    /// A worker on its thread is about to check the queue.
    pub(super) searcher: Option<Searcher>,
    /// A spawned worker does not have its thread yet.
    pub(super) is_starting: bool,
    /// How many workers were spawned. Identifies the starting one.
    pub(super) starts: u64,
    /// The starting worker has waited for a while, so the limiter does not know the promises.
    pub(super) is_late: bool,
    /// [`check_start`](Workers::check_start) is called from time to time.
    pub(super) is_watched: bool,
    /// A token that the limiter's queue granted, for the next worker that takes a task.
    pub(super) is_granted: bool,
    /// How many tokens were granted. Identifies the last grant.
    pub(super) grants: u64,
    pub(super) token_wait: Option<TokenWait>,
    /// A caller that runs its nested task itself, if no worker does, counts on the worker that is expected.
    pub(super) has_nested_callers: bool,
    /// The running tasks, by the slot of their worker.
    pub(super) running: Vec<Option<SharedJob>>,
    /// Why the workers accept no tasks. `None` while they accept tasks.
    pub(super) closed: Option<OffloadErrorKind>,
    /// The last handle of the pool is gone, so workers that find no task are not needed any more.
    pub(super) is_released: bool,
    pub(super) started: u64,
    pub(super) refused: u64,
}

/// The worker that is about to check the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Searcher {
    /// An idle worker that was unparked.
    Activated,
    /// A worker that has run a task. Before it checks the queue, it calls the waker of that task's caller on its
    /// thread, which is user code.
    OnThread(ThreadId),
}

/// What waits for a thread, identified by its number: the starting worker, a granted token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ThreadWait {
    pub(super) start: Option<u64>,
    pub(super) grant: Option<u64>,
}

/// What no queued task needs any more.
#[must_use]
#[derive(Default)]
pub(super) struct Unneeded {
    pub(super) wait: Option<TokenWait>,
    pub(super) is_granted: bool,
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
        let ran = self.running[slot].replace(job);
        self.count_started(ran.as_ref());
        ran
    }

    /// Records that a worker runs no task at the moment. Returns the task that the worker ran.
    pub(super) fn clear_running(&mut self, worker: &mut Worker) -> Option<SharedJob> {
        let ran = worker.slot.take().and_then(|slot| self.running[slot].take());
        self.count_started(ran.as_ref());
        ran
    }

    /// Counts a task that has left a worker, if the task had started: it may have been withdrawn.
    pub(super) fn count_started(&mut self, ran: Option<&SharedJob>) {
        self.started += u64::from(ran.is_some_and(|job| job.flags().is_started()));
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

    /// Takes the place in the limiter's queue, or the token that it granted, if no task is queued.
    pub(super) fn take_unneeded(&mut self) -> Unneeded {
        if !self.queue.is_empty() {
            return Unneeded::default();
        }
        Unneeded { wait: self.token_wait.take(), is_granted: mem::take(&mut self.is_granted) }
    }

    /// Returns `true` if tasks are queued and no worker is about to check the queue.
    pub(super) fn needs_worker(&self) -> bool {
        let is_expected = self.searcher.is_some() || self.is_starting;
        !self.queue.is_empty() && !is_expected && self.closed.is_none()
    }

    /// Returns the grant that waits for a worker. That worker may never get a thread.
    pub(super) fn waiting_grant(&self) -> Option<u64> {
        self.is_granted.then_some(self.grants)
    }

    /// Returns what waits for a thread.
    pub(super) fn thread_wait(&self) -> ThreadWait {
        ThreadWait { start: self.is_starting.then_some(self.starts), grant: self.waiting_grant() }
    }

    /// Records that the workers are watched from now on. Returns `true` if they were not watched before.
    pub(super) fn begin_watch(&mut self) -> bool {
        !mem::replace(&mut self.is_watched, true)
    }

    /// Chooses the worker that checks the queue next.
    pub(super) fn activate_worker(&mut self) -> WorkerActivation {
        match self.idle.pop() {
            Some(worker) => {
                self.searcher = Some(Searcher::Activated);
                WorkerActivation::Unpark(worker)
            }
            None => {
                (self.is_starting, self.starts) = (true, self.starts + 1);
                WorkerActivation::Spawn { begins_watch: self.begin_watch() }
            }
        }
    }
}
