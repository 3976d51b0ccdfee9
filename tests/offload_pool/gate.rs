//! What a [`Gate`] does to pools, and the runtimes from which they are used.

use onelane::offload::{OffloadError, TaskHandle};
use onelane::{BlockingPool, CpuPool};
use tokio::runtime::{Builder, Runtime};

use crate::waiting::{Gate, until};

impl Gate {
    /// Blocks so many tasks of a pool. They go on without anybody.
    pub(crate) async fn fill(&self, pool: &BlockingPool, tasks: usize) -> Vec<TaskHandle<()>> {
        self.start(tasks, |block| pool.task(move |_| block()).start()).await
    }

    pub(crate) async fn fill_cpu(&self, pool: &CpuPool, tasks: usize) -> Vec<TaskHandle<()>> {
        self.start(tasks, |block| pool.task(move |_| block()).start()).await
    }

    async fn start<F>(&self, tasks: usize, start: F) -> Vec<TaskHandle<()>>
    where
        F: Fn(Box<dyn FnOnce() + Send>) -> Result<TaskHandle<()>, OffloadError>,
    {
        let before = self.inside();
        let handles: Vec<_> = (0..tasks).map(|_| start(Box::new(self.block())).unwrap()).collect();
        until("all are blocked", || self.inside() == before + tasks).await;
        handles
    }
}

/// One of each kind.
pub(crate) fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    ]
}
