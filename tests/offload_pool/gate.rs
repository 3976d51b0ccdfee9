//! [`Gate`], which blocks tasks until the test lets them go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use onelane::offload::{OffloadError, TaskHandle};
use onelane::{BlockingPool, CpuPool};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// How long a test waits for what must happen: long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// Blocks threads until it is opened. It is when the test ends, too.
#[derive(Default)]
pub(crate) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    is_open: Mutex<bool>,
    opens: Condvar,
    inside: AtomicUsize,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.inner.is_open.lock().unwrap() = true;
        self.inner.opens.notify_all();
    }

    pub(crate) fn shut(&self) {
        *self.inner.is_open.lock().unwrap() = false;
    }

    /// A closure that blocks.
    pub(crate) fn block(&self) -> impl FnOnce() + Send + 'static {
        let inner = Arc::clone(&self.inner);
        move || {
            inner.inside.fetch_add(1, Ordering::SeqCst);
            drop(inner.opens.wait_while(inner.is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
            inner.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// How many threads it blocks.
    pub(crate) fn inside(&self) -> usize {
        self.inner.inside.load(Ordering::SeqCst)
    }

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

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Waits until it is so: threads come to it in real time.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(MS).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// A result that comes in time.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// One of each kind.
pub(crate) fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    ]
}
