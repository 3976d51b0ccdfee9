//! [`Worker`], what a thread does for a pool.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::config::KeepAlive;
use super::parker::{Parker, UnparkReason};
use super::scheduling::WorkerStep;
use super::workers::Workers;
use crate::debug::impl_debug;
use crate::offload::job::SharedJob;
use crate::panic::discard;
use crate::wake::wake;

/// Runs tasks on one thread.
pub(crate) struct Worker {
    /// `None` once the worker runs, or was disarmed.
    workers: Option<Arc<Workers>>,
    /// `true` if the worker holds a token, as it does when it is activated.
    pub(super) has_token: bool,
    pub(super) is_starting: bool,
    pub(super) is_searching: bool,
    /// Where the worker waits while it is idle. `None` if the worker leaves its thread instead.
    pub(super) parker: Option<Arc<Parker>>,
    /// The worker's index in the list of running tasks.
    pub(super) slot: Option<usize>,
    /// The job that the worker runs first, if it was created for one.
    first: Option<SharedJob>,
}

impl Worker {
    pub(super) fn new(workers: Arc<Workers>) -> Self {
        Self {
            workers: Some(workers),
            has_token: true,
            is_starting: true,
            is_searching: false,
            parker: None,
            slot: None,
            first: None,
        }
    }

    /// Creates a worker that runs a job before any other. It holds a token, and is not the *starting* worker.
    pub(super) fn with_job(workers: &Arc<Workers>, job: &SharedJob) -> Self {
        let mut worker = Self::new(Arc::clone(workers));
        (worker.is_starting, worker.first) = (false, Some(Arc::clone(job)));
        worker
    }

    /// Runs tasks until there are none for a while.
    pub(crate) fn run(mut self) {
        let Some(workers) = self.workers.take() else { return };
        let KeepAlive { max_busy, idle_timeout, .. } = workers.config.keep_alive;
        self.parker = idle_timeout.map(|_| Arc::default());
        let started = Instant::now();
        while self.run_until_idle(&workers, || max_busy != Duration::MAX && started.elapsed() >= max_busy) {
            match self.wait_idle(&workers) {
                UnparkReason::Work => (self.is_searching, self.has_token) = (true, true),
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
        let mut step = match self.first.take() {
            Some(job) => workers.begin(self, job),
            None => workers.next_after_search(self),
        };
        loop {
            let job = match step {
                WorkerStep::Run(job) => job,
                WorkerStep::Search => {
                    Self::spin(workers);
                    step = workers.next_after_search(self);
                    continue;
                }
                WorkerStep::Stop { is_idle } => return is_idle,
            };
            Arc::clone(&job).run(&workers.config.pool);
            // The next step is decided before the result is published: see `RunnableJob::publish`.
            step = if has_been_busy() { workers.retire(self) } else { workers.next_after_task(self) };
            let waker = job.publish();
            // This may be the last reference to the task, and the values that the task holds are the user's.
            discard(job);
            if !matches!(step, WorkerStep::Run(..)) {
                workers.on_result_published();
            }
            wake(waker);
        }
    }

    /// Waits briefly for a task, and yields the processor to other threads.
    fn spin(workers: &Workers) {
        for _ in 1..workers.config.keep_alive.spins {
            if workers.config.queued() > 0 {
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
            workers.on_worker_lost(self.first.take());
        }
    }
}

impl_debug!(Worker |this| { workers: this.workers, has_token: this.has_token, .. });
