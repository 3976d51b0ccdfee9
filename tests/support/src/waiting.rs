//! Waiting in tests: a [`Gate`] has threads wait, [`until`] and [`soon`] wait for what threads do.
//!
//! All may pass this gate once it is open. The one of `gate.rs` lets so many through, one by one, and keeps count of them.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use onelane::offload::{OffloadError, TaskHandle};
use onelane::{BlockingPool, CpuPool};
use tokio::time::{sleep, timeout};

/// How long a test waits for what must happen: long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const MS: Duration = Duration::from_millis(1);

/// Blocks threads until it is opened. It is when the test ends, too.
#[derive(Debug, Default)]
pub struct Gate(Arc<Inner>);

/// Its side of those who block.
#[derive(Clone, Debug)]
pub struct Wait(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_open: Mutex<bool>,
    opens: Condvar,
    inside: AtomicUsize,
}

impl Gate {
    pub fn open(&self) {
        *self.0.is_open.lock().unwrap() = true;
        self.0.opens.notify_all();
    }

    pub fn shut(&self) {
        *self.0.is_open.lock().unwrap() = false;
    }

    pub fn wait(&self) -> Wait {
        Wait(Arc::clone(&self.0))
    }

    /// A closure that blocks.
    pub fn block(&self) -> impl FnOnce() + Send + 'static {
        let wait = self.wait();
        move || wait.block()
    }

    /// How many threads it blocks.
    pub fn inside(&self) -> usize {
        self.0.inside.load(Ordering::SeqCst)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Wait {
    pub fn block(&self) {
        self.0.inside.fetch_add(1, Ordering::SeqCst);
        drop(self.0.opens.wait_while(self.0.is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until it is so. Threads tell nobody what they do, so it is looked at again and again.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            // Virtual in tests whose time stands still, real in those with threads.
            sleep(MS).await;
        }
    };
    soon(what, wait).await;
}

/// What comes in time.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Waits until it is so where nothing can be awaited, or no virtual time may pass.
#[track_caller]
pub fn spin_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "in vain");
        thread::yield_now();
    }
}

impl Gate {
    /// Blocks so many tasks of a pool. They go on without anybody.
    pub async fn fill(&self, pool: &BlockingPool, tasks: usize) -> Vec<TaskHandle<()>> {
        self.start_all(tasks, |block| pool.task(move |_| block()).start()).await
    }

    pub async fn fill_cpu(&self, pool: &CpuPool, tasks: usize) -> Vec<TaskHandle<()>> {
        self.start_all(tasks, |block| pool.task(move |_| block()).start()).await
    }

    async fn start_all<F>(&self, tasks: usize, start: F) -> Vec<TaskHandle<()>>
    where
        F: Fn(Box<dyn FnOnce() + Send>) -> Result<TaskHandle<()>, OffloadError>,
    {
        let before = self.inside();
        let handles: Vec<_> =
            (0..tasks).map(|_| start(Box::new(self.block())).expect("the pool accepts the task")).collect();
        until("all are blocked", || self.inside() == before + tasks).await;
        handles
    }
}
