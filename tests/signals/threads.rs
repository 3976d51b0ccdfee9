//! Threads that the system refuses, and panics of the whole process: what one process sees only once.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::process::{Command, Output};
use std::time::Duration;
use std::{env, fs, panic};

use onelane::offload::OffloadErrorKind;
use onelane::offload::from_thread::Portal;
use onelane::{BlockingPool, run_cpu};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::runtimes::{current_thread, multi_thread};
use tokio::runtime::Handle;
use tokio::task::LocalSet;
use tokio::time::sleep;

const SCENARIO: &str = "ONELANE_TEST_THREADS";
/// The stack of each thread: much more than what is left while threads are refused.
const STACK: usize = 256 << 20;
const LEFT: u64 = 64 << 20;

/// Runs a scenario in a process of its own.
fn run(scenario: &str) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "threads::scenario_of_the_tests_above", "--nocapture"]);
    command.env(SCENARIO, scenario).env("RUST_MIN_STACK", STACK.to_string()).output().unwrap()
}

/// Runs `work` while the process can start no thread.
fn without_threads<T>(work: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::As);
    let pages: u64 = fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
    let page = rustix::param::page_size() as u64;
    setrlimit(Resource::As, Rlimit { current: Some(pages * page + LEFT), ..before }).unwrap();
    let result = work();
    setrlimit(Resource::As, before).unwrap();
    result
}

#[test]
fn first_cpu_task_without_a_thread_fails_and_the_next_one_runs() {
    let output = run("first cpu task");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn portal_without_a_thread_returns_the_error_in_async_code_and_the_next_one_starts() {
    let output = run("portal");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn first_panic_of_a_process_that_holds_a_task_does_not_abort_it() {
    let output = run("first panic");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn destructor_of_a_task_leaves_the_panic_hook_alone() {
    let output = run("destructor");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn nested_task_where_tokio_refuses_to_block_runs_without_a_word() {
    let output = run("nested");
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("the task's own panic"), "{printed}");
    assert_eq!(printed.matches("panicked at").count(), 2, "{printed}");
}

#[test]
fn scenario_of_the_tests_above() {
    let Ok(scenario) = env::var(SCENARIO) else { return };
    match &*scenario {
        "first cpu task" => first_cpu_task(),
        "portal" => portal(),
        "first panic" => first_panic(),
        "destructor" => destructor(),
        "nested" => nested(),
        other => panic!("there is no scenario {other:?}"),
    }
}

fn first_cpu_task() {
    let runtime = current_thread();
    for _ in 0..2 {
        let refused = without_threads(|| runtime.block_on(run_cpu(|| 1)));
        assert_eq!(refused.unwrap_err().kind(), OffloadErrorKind::NoThread);
    }
    assert_eq!(runtime.block_on(run_cpu(|| 2)), Ok(2));
}

fn portal() {
    current_thread().block_on(async {
        without_threads(Portal::start).unwrap_err();
        let portal = Portal::start().unwrap();
        let called = tokio::task::spawn_blocking(move || portal.call(async { 7 }));
        assert_eq!(called.await.unwrap(), Ok(7));
    });
}

/// The handle is dropped while its thread panics. It is the first value of the crate that looks at the panic hook.
fn first_panic() {
    multi_thread(1).block_on(async {
        let pool = BlockingPool::builder("paused").max_running(1).build();
        pool.limiter().set_total(0);
        let holds = tokio::spawn(async move {
            let _handle = pool.task(|_| 1).start();
            sleep(Duration::from_millis(10)).await;
            panic!("the first panic of the process");
        });
        assert!(holds.await.unwrap_err().is_panic());
    });
}

/// The crate calls the hook that was there before its first work, and knows the location from then on.
fn destructor() {
    current_thread().block_on(async {
        let pool = BlockingPool::builder("paused").max_running(1).build();
        pool.limiter().set_total(0);
        drop(pool.task(|_| ()).start().unwrap());
        panic::set_hook(Box::new(|_| ()));
        pool.limiter().set_total(1);
        let error = pool.run(|| -> u8 { panic!("the task's own panic") }).await.unwrap_err();
        assert!(error.panic().unwrap().location().is_some(), "{error:?}");
    });
}

/// Each nested task has the only token of its pool, and waits on a thread that tokio does not let block.
fn nested() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let panics = || -> u8 { panic!("the task's own panic") };
    let inner = pool.clone();
    let in_runtime = move || current_thread().block_on(inner.run(panics)).unwrap_err().kind();
    let inner = pool.clone();
    let in_local_set =
        move || Handle::current().block_on(LocalSet::new().run_until(inner.run(panics))).unwrap_err().kind();
    current_thread().block_on(async {
        assert_eq!(pool.run(in_runtime).await, Ok(OffloadErrorKind::Panicked));
        assert_eq!(pool.run(in_local_set).await, Ok(OffloadErrorKind::Panicked));
    });
}
