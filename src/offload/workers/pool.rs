//! [`Pool`], what blocking and CPU pools have in common.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;

use super::config::WorkersConfig;
use super::runtimes::Runtimes;
use super::workers::Workers;
use crate::offload::error::{OffloadError, OffloadErrorKind};
use crate::offload::job::{TaskContext, TaskPlace};
use crate::offload::stats::{PoolStats, RunningTask};
use crate::panic::discard;
use crate::wake::Contained;

/// What all handles of a pool share.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) config: Arc<WorkersConfig>,
    pub(crate) max_wait: Option<Duration>,
    pub(crate) workers: WorkerSource,
}

/// Which workers run a task.
#[derive(Debug)]
pub(crate) enum WorkerSource {
    /// The workers of the runtime that submits it.
    PerRuntime(Runtimes),
    /// The pool's own workers.
    #[cfg(feature = "cpu")]
    Own(Arc<Workers>),
}

/// What a task needs that is submitted by the current thread.
pub(crate) struct CurrentWorkers {
    pub(crate) workers: Arc<Workers>,
    pub(crate) place: TaskPlace,
    /// The runtime that the task enters, if the workers' threads are outside of it.
    pub(crate) enters: Option<Handle>,
}

impl Pool {
    pub(crate) fn name(&self) -> &str {
        &self.config.pool
    }

    /// Returns what a task needs that is submitted by the current thread.
    pub(crate) fn current_workers(&self) -> Result<CurrentWorkers, OffloadError> {
        let (workers, runtime, enters) = match &self.workers {
            WorkerSource::PerRuntime(runtimes) => {
                let (workers, runtime) = runtimes.current_workers(&self.config)?;
                (workers, Some(runtime), None)
            }
            #[cfg(feature = "cpu")]
            WorkerSource::Own(workers) => {
                let enters = Handle::try_current().ok();
                (Arc::clone(workers), enters.as_ref().map(Handle::id), enters)
            }
        };
        let place = TaskPlace { pool_id: self.config.pool_id(), limiter_id: self.config.limiter_id(), runtime };
        Ok(CurrentWorkers { workers, place, enters })
    }

    fn all_workers(&self) -> Vec<Arc<Workers>> {
        match &self.workers {
            WorkerSource::PerRuntime(runtimes) => runtimes.all_workers(),
            #[cfg(feature = "cpu")]
            WorkerSource::Own(workers) => vec![Arc::clone(workers)],
        }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let max_running = self.config.limiter.total();
        let mut all = PoolStats { name: self.config.pool.clone(), max_running, ..PoolStats::default() };
        for snapshot in self.all_workers().iter().map(|workers| workers.snapshot()) {
            all.running += snapshot.running.len();
            all.abandoned += snapshot.running.iter().filter(|job| job.flags().is_abandoned()).count();
            all.queued += snapshot.queued;
            all.idle_threads += snapshot.idle;
            all.started += snapshot.started;
            all.refused += snapshot.refused;
            all.tasks.extend(snapshot.running.iter().filter_map(|job| {
                let label = job.options().label.clone()?;
                Some(RunningTask { label, is_abandoned: job.flags().is_abandoned() })
            }));
            // A task may have ended in the meantime: then this is the last reference to its values.
            snapshot.running.into_iter().for_each(discard);
        }
        all
    }

    /// Waits until the pool is closed and no task is running.
    pub(crate) async fn drained(&self) -> Result<(), OffloadError> {
        loop {
            // The future is created before the check, so that it does not miss a notification after the check.
            let mut notified = Contained(pin!(self.config.drained.notified()));
            if self.config.is_closed() && self.all_workers().iter().all(|workers| workers.is_drained()) {
                return Ok(());
            }
            // Checked by each poll, since the future may move into a task of the pool.
            let wait = poll_fn(|cx| match TaskContext::is_inside_pool(self.config.pool_id()) {
                true => Poll::Ready(Err(OffloadError::from(OffloadErrorKind::WouldDeadlock))),
                false => Pin::new(&mut notified).poll(cx).map(Ok),
            });
            wait.await.map_err(|error| error.of_task(self.config.pool.clone(), None))?;
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.config.is_closed()
    }

    /// Refuses all queued tasks and all future ones.
    pub(crate) fn close(&self) {
        self.config.close(|| self.all_workers());
    }
}

impl Drop for Pool {
    /// Ends idle threads with the last handle. Tasks that were submitted still run.
    fn drop(&mut self) {
        self.all_workers().iter().for_each(|workers| workers.release_idle());
    }
}
