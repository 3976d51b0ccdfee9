//! [`Gate`], a function that blocks until the test lets it continue.
//!
//! It lets callers pass one by one, and counts them. The gate of `waiting.rs` lets all callers pass once it is open.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::Duration;

use onelane::offload::TaskContext;

/// Far more than any step takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The work of functions that block, which a test counts and holds.
#[derive(Default)]
pub struct Gate {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    started: Vec<&'static str>,
    finished: usize,
    most_inside: usize,
    cancelled: usize,
    may_go: usize,
    threads: Vec<ThreadId>,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Blocks until the test lets it continue.
    pub fn pass(&self) {
        self.pass_as("");
    }

    pub fn pass_as(&self, name: &'static str) {
        self.enter(name);
        let counts = self.counts();
        let waited = self.changed.wait_timeout_while(counts, PATIENCE, |counts| counts.may_go == 0);
        let (mut counts, timeout) = waited.expect("no thread panics with the mutex held");
        assert!(!timeout.timed_out(), "the test lets the function continue");
        counts.may_go -= 1;
        counts.finished += 1;
    }

    /// Blocks until it is cancelled or the test lets it continue.
    pub fn pass_unless_cancelled(&self) {
        self.enter("");
        let cx = TaskContext::current().expect("the function runs on a pool");
        for _ in 0..10_000 {
            let mut counts = self.counts();
            let is_cancelled = cx.is_cancelled();
            if is_cancelled || counts.may_go > 0 {
                counts.cancelled += usize::from(is_cancelled);
                counts.may_go -= usize::from(!is_cancelled);
                counts.finished += 1;
                return;
            }
            drop(counts);
            thread::sleep(Duration::from_millis(2));
        }
        panic!("neither cancelled nor released");
    }

    fn enter(&self, name: &'static str) {
        let mut counts = self.counts();
        counts.started.push(name);
        counts.threads.push(thread::current().id());
        let inside = counts.started.len() - counts.finished;
        counts.most_inside = counts.most_inside.max(inside);
    }

    pub fn release(&self, functions: usize) {
        self.counts().may_go += functions;
        self.changed.notify_all();
    }

    pub fn started(&self) -> usize {
        self.counts().started.len()
    }

    /// The functions that have started, in their order.
    pub fn names(&self) -> Vec<&'static str> {
        self.counts().started.clone()
    }

    pub fn finished(&self) -> usize {
        self.counts().finished
    }

    pub fn most_inside(&self) -> usize {
        self.counts().most_inside
    }

    pub fn cancelled(&self) -> usize {
        self.counts().cancelled
    }

    pub fn threads(&self) -> Vec<ThreadId> {
        self.counts().threads.clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("no thread panics with the mutex held")
    }
}
