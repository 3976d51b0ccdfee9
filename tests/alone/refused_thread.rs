//! The operating system refuses a thread for a moment.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]
#![cfg(target_os = "linux")]

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use onelane::BlockingPool;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
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

#[test]
fn thread_that_is_refused_once_is_requested_again() {
    let _alone = alone();
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_stack_size(STACK).enable_all().build().unwrap();
    let pool = BlockingPool::new("refused");
    let (end, is_over) = mpsc::channel::<()>();
    let (send_started, started) = mpsc::channel();
    // Keeps tokio from reporting the refusal: it expects that this thread runs the closure later.
    let busy = runtime.spawn_blocking(move || {
        send_started.send(()).unwrap();
        is_over.recv()
    });
    started.recv().unwrap();
    let (first, second) = without_threads(|| {
        let _entered = runtime.enter();
        (pool.task(|_| 1).start().unwrap(), pool.task(|_| 2).start().unwrap())
    });
    drop(first);
    runtime.block_on(async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let third = timeout(Duration::from_secs(5), pool.run(|| 3)).await;
        assert_eq!(third.expect("threads are to be had again"), Ok(3));
        assert_eq!(timeout(Duration::from_secs(5), second).await.expect("it is not forgotten"), Ok(2));
    });
    drop(end);
    runtime.block_on(busy).unwrap().unwrap_err();
}
