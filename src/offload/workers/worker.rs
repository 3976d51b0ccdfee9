//! [`Worker`], what a thread does for a pool.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::config::KeepAlive;
use super::nested_queue::NestedQueue;
use super::parker::{Parker, UnparkReason};
use super::scheduling::WorkerStep;
use super::state::Searcher;
use super::workers::Workers;
use crate::debug::impl_debug;
use crate::offload::job::TaskContext;
use crate::panic::discard;
use crate::wake::wake;

/// Runs tasks on one thread.
pub(crate) struct Worker {
    /// `None` once the worker runs, or was disarmed.
    workers: Option<Arc<Workers>>,
    /// The worker holds a token while it runs tasks.
    pub(super) has_token: bool,
    pub(super) is_starting: bool,
    /// How the worker is known while it searches.
    pub(super) searcher: Option<Searcher>,
    /// Where the worker waits while it is idle. `None` if the worker leaves its thread instead.
    pub(super) parker: Option<Arc<Parker>>,
    /// The worker's index in the list of running tasks.
    pub(super) slot: Option<usize>,
}

impl Worker {
    pub(super) fn new(workers: Arc<Workers>) -> Self {
        Self { workers: Some(workers), has_token: false, is_starting: true, searcher: None, parker: None, slot: None }
    }

    /// Runs tasks until there are none for a while.
    pub(crate) fn run(mut self) {
        let Some(workers) = self.workers.take() else { return };
        let KeepAlive { max_busy, idle_timeout, .. } = workers.config.keep_alive;
        self.parker = idle_timeout.map(|_| Arc::default());
        let started = Instant::now();
        while self.run_until_idle(&workers, || max_busy != Duration::MAX && started.elapsed() >= max_busy) {
            match self.wait_idle(&workers) {
                UnparkReason::Work => self.searcher = Some(Searcher::Activated),
                UnparkReason::Exit => return,
            }
        }
    }

    /// Drops the worker without running it.
    pub(super) fn disarm(mut self) {
        self.workers = None;
    }

    /// Runs tasks until the worker stops. Returns `true` if the worker is then idle, and `false` if it must leave its
    /// thread.
    fn run_until_idle(&mut self, workers: &Arc<Workers>, has_been_busy: impl Fn() -> bool) -> bool {
        let mut step = workers.next_after_search(self);
        loop {
            let job = match step {
                WorkerStep::Run(job) => job,
                WorkerStep::Search => {
                    if self.searcher.is_some() {
                        Self::spin(workers);
                    }
                    step = workers.next_after_search(self);
                    continue;
                }
                WorkerStep::Stop { is_idle } => return is_idle,
            };
            Arc::clone(&job).run(&workers.config.pool);
            // They use the token of this task.
            NestedQueue::wait();
            // The next step is decided before the result is published: see `RunnableJob::publish`.
            step = if has_been_busy() { workers.retire(self) } else { workers.next_after_task(self) };
            let waker = job.publish();
            // This may be the last reference to the task, and the values that the task holds are the user's, as is the
            // waker. They may block on tasks of this pool, except for the next one of this worker.
            if matches!(step, WorkerStep::Run(..)) {
                TaskContext::hold_token(job.place(), || {
                    discard(job);
                    wake(waker);
                });
            } else {
                discard(job);
                workers.on_result_published();
                wake(waker);
            }
        }
    }

    /// Waits briefly for a task, and yields the processor to other threads.
    fn spin(workers: &Workers) {
        for _ in 1..workers.config.keep_alive.spins {
            if workers.has_queued_tasks() {
                return;
            }
            thread::yield_now();
        }
    }

    fn wait_idle(&self, workers: &Arc<Workers>) -> UnparkReason {
        let (Some(parker), Some(idle_timeout)) = (&self.parker, workers.config.keep_alive.idle_timeout) else {
            return UnparkReason::Exit;
        };
        match parker.park_timeout(idle_timeout) {
            Some(reason) => reason,
            None if workers.remove_idle(parker) => UnparkReason::Exit,
            // The worker was removed from the idle workers, so the unpark is on its way.
            None => parker.park(),
        }
    }
}

impl Drop for Worker {
    /// Reports a worker that never ran because its runtime is gone.
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.on_worker_lost();
        }
    }
}

impl_debug!(Worker |this| { workers: this.workers, has_token: this.has_token, .. });
