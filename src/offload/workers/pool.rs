//! [`Pool`], what blocking and CPU pools have in common: a limiter, rules, and a crew for each runtime.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::config::WorkersConfig;
use super::runtimes::Runtimes;
use super::workers::Workers;
use crate::offload::error::OffloadError;
use crate::offload::statistics::{PoolStatistics, RunningTask};
use crate::offload::task::Work;

/// What stands behind the handles of a pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) rules: Arc<WorkersConfig>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) source: Source,
}

/// Whose threads they are.
#[derive(Debug)]
pub(crate) enum Source {
    /// Those of the runtime that a task comes from.
    Runtimes(Runtimes),
    /// The pool's own.
    #[cfg(feature = "rayon")]
    Own(Arc<Workers>),
}

impl Pool {
    pub(crate) fn name(&self) -> &'static str {
        self.rules.pool
    }

    /// The crew for a task that is called for here, and the runtime that its threads have not entered.
    pub(crate) fn crew(&self) -> Result<(Arc<Workers>, Option<Handle>), OffloadError> {
        match &self.source {
            Source::Runtimes(runtimes) => Ok((runtimes.crew_here(&self.rules)?, None)),
            #[cfg(feature = "rayon")]
            Source::Own(crew) => Ok((Arc::clone(crew), Handle::try_current().ok())),
        }
    }

    fn crews(&self) -> Vec<Arc<Workers>> {
        match &self.source {
            Source::Runtimes(runtimes) => runtimes.all(),
            #[cfg(feature = "rayon")]
            Source::Own(crew) => vec![Arc::clone(crew)],
        }
    }

    pub(crate) fn statistics(&self) -> PoolStatistics {
        let max_running = self.rules.limiter.total();
        let mut all = PoolStatistics { name: self.name(), max_running, ..PoolStatistics::default() };
        for crew in self.crews() {
            let look = crew.look();
            all.running += look.running.len();
            all.abandoned += look.running.iter().filter(|job| job.flags().is_abandoned()).count();
            all.queued += look.queued;
            all.idle_threads += look.idle;
            all.started += look.counts.started;
            all.refused += look.counts.refused;
            all.tasks.extend(look.running.iter().filter_map(|job| running_task(&**job)));
        }
        all
    }

    /// Waits until it is closed, and nothing runs any more.
    pub(crate) async fn drained(&self) {
        loop {
            // Registered before the look, so that no announcement falls in between.
            let announced = self.rules.drained.notified();
            if self.rules.is_closed() && self.crews().iter().all(|crew| crew.is_drained()) {
                return;
            }
            announced.await;
        }
    }

    /// Takes no work any more. Those that wait fail.
    pub(crate) fn close(&self) {
        self.rules.close();
        self.crews().iter().for_each(|crew| crew.close(&OffloadError::Closed));
        self.rules.tell_drained();
    }
}

fn running_task(job: &dyn Work) -> Option<RunningTask> {
    let label = job.terms().label.clone()?;
    Some(RunningTask { label, is_abandoned: job.flags().is_abandoned() })
}
