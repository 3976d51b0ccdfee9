//! Tests of a process whose runtime is blocked forever. Each runs in its own process.

#![allow(clippy::unwrap_used, reason = "a test fails on anything unexpected")]

use std::convert::Infallible;
use std::env;
use std::future::pending;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use onelane::background::{ServiceHost, service_fn};
use tokio::runtime::Builder;

const STUCK: &str = "ONELANE_TEST_STUCK";
const PATIENCE: Duration = Duration::from_secs(20);

/// Kills the child process on drop.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn process_with_a_stuck_runtime_exits_with_exit_within() {
    let mut child = KillOnDrop(spawn_stuck_process("exit"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "the process hangs");
        // The other process runs in real time.
        sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(1), "the exit code reports the stuck service");
}

#[test]
fn process_with_a_stuck_runtime_keeps_running_without_exit_within() {
    let mut child = KillOnDrop(spawn_stuck_process("wait"));
    // Much longer than `exit_within` takes: only real time can show that a process does not end.
    sleep(Duration::from_secs(3));
    assert_eq!(child.0.try_wait().unwrap(), None, "`exit_within` is not set");
}

fn spawn_stuck_process(mode: &str) -> Child {
    let test = env::current_exe().unwrap();
    let mut command = Command::new(test);
    command
        .args(["--exact", "stuck_process::child_of_the_tests_above"])
        .env(STUCK, mode)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The entry point of the child process. Does nothing when it runs as a regular test.
#[test]
fn child_of_the_tests_above() {
    let Ok(mode) = env::var(STUCK) else { return };
    let (signal, is_stuck) = mpsc::channel();
    let stuck = service_fn("stuck", move |_| {
        let signal = signal.clone();
        async move {
            signal.send(()).unwrap();
            // Blocks the only thread of the runtime.
            sleep(PATIENCE * 10);
            Ok(())
        }
    });
    let limit = Duration::from_millis(200);
    let mut builder = ServiceHost::builder().service(stuck.stop_timeout(limit)).shutdown_timeout(limit * 4);
    if mode == "exit" {
        builder = builder.exit_within(limit);
    }
    let host = builder.build().unwrap();
    let handle = host.handle();
    thread::spawn(move || {
        is_stuck.recv_timeout(PATIENCE).unwrap();
        handle.request_shutdown();
    });
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(host.run_until(pending::<Result<(), Infallible>>()));
    panic!("the only thread is stuck, but run_until returned {ended:?}");
}
