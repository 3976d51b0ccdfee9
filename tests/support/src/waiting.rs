//! Waiting in tests. A [`Gate`] blocks threads, and [`until`], [`yield_until`], [`spin_until`] and [`soon`] wait for
//! conditions and futures.
//!
//! Once this gate is open, all threads pass it. The gate of `gate.rs` admits a given number and counts them.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use onelane::offload::{OffloadError, TaskHandle};
use onelane::{BlockingPool, CpuPool};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

/// The time limit for an event that a test waits for, long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const MS: Duration = Duration::from_millis(1);

/// Blocks threads until it is opened. Dropping it opens it, too.
#[derive(Debug, Default)]
pub struct Gate(Arc<Inner>);

/// The handle of a [`Gate`] for the threads that it blocks.
#[derive(Clone, Debug)]
pub struct Wait(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_open: Mutex<bool>,
    opened: Condvar,
    inside: AtomicUsize,
}

impl Gate {
    pub fn open(&self) {
        *self.0.is_open.lock().unwrap() = true;
        self.0.opened.notify_all();
    }

    pub fn close(&self) {
        *self.0.is_open.lock().unwrap() = false;
    }

    pub fn wait(&self) -> Wait {
        Wait(Arc::clone(&self.0))
    }

    /// Returns a closure that blocks until the gate is open.
    pub fn block(&self) -> impl FnOnce() + Send + 'static {
        let wait = self.wait();
        move || wait.block()
    }

    /// Returns the number of threads that the gate blocks.
    pub fn inside(&self) -> usize {
        self.0.inside.load(Ordering::SeqCst)
    }

    /// Blocks the given number of tasks of a pool.
    pub async fn fill(&self, pool: &BlockingPool, tasks: usize) -> Vec<TaskHandle<()>> {
        self.start_all(tasks, |block| pool.task(move |_| block()).start()).await
    }

    /// Blocks the given number of tasks of a pool.
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
        until("all tasks are blocked", || self.inside() == before + tasks).await;
        handles
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
        drop(self.0.opened.wait_while(self.0.is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until a condition holds. The condition is polled, because threads send no notification of their progress.
pub async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let wait = async {
        while !is_true() {
            // Virtual time where time is paused, real time where threads are involved.
            sleep(MS).await;
        }
    };
    soon(what, wait).await;
}

/// Awaits a future that must complete within [`PATIENCE`].
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Yields to other tasks until a condition holds. Paused time does not advance meanwhile.
pub async fn yield_until(mut is_true: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_true() {
            return;
        }
        yield_now().await;
    }
    panic!("the condition was never met");
}

/// Waits until a condition holds, for code that cannot await or must not let virtual time pass.
#[track_caller]
pub fn spin_until(mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "the condition was never met");
        thread::yield_now();
    }
}
