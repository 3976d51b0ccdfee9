//! Waiting in tests: a [`Gate`] has threads wait, [`until`] and [`soon`] wait for what threads do.
//!
//! All may pass this gate once it is open. The one of `gate.rs` lets so many through, one by one, and keeps count of them.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

/// How long a test waits for what must happen: long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// Blocks threads until it is opened. It is when the test ends, too.
#[derive(Debug, Default)]
pub(crate) struct Gate(Arc<Inner>);

/// Its side of those who block.
#[derive(Clone, Debug)]
pub(crate) struct Wait(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_open: Mutex<bool>,
    opens: Condvar,
    inside: AtomicUsize,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.is_open.lock().unwrap() = true;
        self.0.opens.notify_all();
    }

    pub(crate) fn shut(&self) {
        *self.0.is_open.lock().unwrap() = false;
    }

    pub(crate) fn wait(&self) -> Wait {
        Wait(Arc::clone(&self.0))
    }

    /// A closure that blocks.
    pub(crate) fn block(&self) -> impl FnOnce() + Send + 'static {
        let wait = self.wait();
        move || wait.block()
    }

    /// How many threads it blocks.
    pub(crate) fn inside(&self) -> usize {
        self.0.inside.load(Ordering::SeqCst)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Wait {
    pub(crate) fn block(&self) {
        self.0.inside.fetch_add(1, Ordering::SeqCst);
        drop(self.0.opens.wait_while(self.0.is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until it is so. Threads tell nobody what they do, so it is looked at again and again.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            // Virtual in tests whose time stands still, real in those with threads.
            sleep(MS).await;
        }
    };
    soon(what, wait).await;
}

/// What comes in time.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Waits until it is so where nothing can be awaited, or no virtual time may pass.
#[track_caller]
pub(crate) fn spin_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "in vain");
        thread::yield_now();
    }
}
