//! The operating system refuses a thread for a moment.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]
#![cfg(target_os = "linux")]

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use onelane::BlockingPool;
use onelane::offload::TaskHandle;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::alone;

/// More than is left while the limit is in place.
const STACK: usize = 1 << 30;

/// While no more memory is to be had than half a stack, no thread can be started.
fn without_threads<T>(run: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::As);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")).unwrap();
    let current = Some(size.parse::<u64>().unwrap() * 1024 + STACK as u64 / 2);
    setrlimit(Resource::As, Rlimit { current, maximum: before.maximum }).unwrap();
    let result = run();
    setrlimit(Resource::As, before).unwrap();
    result
}

/// A runtime with a thread that is busy until `end` is dropped, which is before the runtime is.
struct Busy {
    end: mpsc::Sender<()>,
    runtime: Runtime,
    thread: JoinHandle<Result<(), mpsc::RecvError>>,
}

impl Busy {
    fn new() -> Self {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_stack_size(STACK).enable_all().build().unwrap();
        let (end, is_over) = mpsc::channel::<()>();
        let (send_started, started) = mpsc::channel();
        // Keeps tokio from reporting the refusal: it expects that this thread runs the closure later.
        let thread = runtime.spawn_blocking(move || {
            send_started.send(()).unwrap();
            is_over.recv()
        });
        started.recv().unwrap();
        Self { end, runtime, thread }
    }

    fn start(&self, pool: &BlockingPool, n: u32) -> TaskHandle<u32> {
        let _entered = self.runtime.enter();
        pool.task(move |_| n).start().unwrap()
    }

    /// Waits for a task while the thread is busy.
    fn result(&self, task: TaskHandle<u32>) -> u32 {
        let result = self.runtime.block_on(async { timeout(Duration::from_secs(5), task).await });
        result.expect("threads are to be had again").unwrap()
    }

    fn finish(self) {
        drop(self.end);
        self.runtime.block_on(self.thread).unwrap().unwrap_err();
    }
}

#[test]
fn thread_that_is_refused_once_is_requested_again() {
    let _alone = alone();
    let (busy, pool) = (Busy::new(), BlockingPool::new("refused"));
    let (first, second) = without_threads(|| (busy.start(&pool, 1), busy.start(&pool, 2)));
    drop(first);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(busy.result(busy.start(&pool, 3)), 3);
    assert_eq!(busy.result(second), 2);
    busy.finish();
}

#[test]
fn task_submitted_right_after_one_whose_thread_was_refused_runs() {
    let _alone = alone();
    for keeps_first in [false, true] {
        let (busy, pool) = (Busy::new(), BlockingPool::new("refused"));
        let first = without_threads(|| busy.start(&pool, 1));
        let first = keeps_first.then_some(first);
        // At once, and the only one.
        assert_eq!(busy.result(busy.start(&pool, 2)), 2);
        assert_eq!(first.map(|first| busy.result(first)), keeps_first.then_some(1));
        busy.finish();
    }
}

#[test]
fn task_whose_thread_was_refused_runs_without_another_one() {
    let _alone = alone();
    let (busy, pool) = (Busy::new(), BlockingPool::new("refused"));
    let only = without_threads(|| busy.start(&pool, 1));
    assert_eq!(busy.result(only), 1);
    busy.finish();
}
