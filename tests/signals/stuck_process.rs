//! A process whose runtime is stuck.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::convert::Infallible;
use std::env;
use std::future::pending;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use onelane::background::{ServiceHost, service_fn};
use support::runtimes::current_thread;
use support::waiting::PATIENCE;

use crate::KilledOnDrop;

const STUCK: &str = "ONELANE_TEST_STUCK";

#[test]
fn process_whose_only_thread_is_stuck_exits_if_configured_to() {
    let mut child = KilledOnDrop(stuck("exit"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "the process hangs");
        // Real time, because the child process has its own clock.
        sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(1), "the exit code reports the stuck service");
}

#[test]
fn process_whose_only_thread_is_stuck_does_not_exit_otherwise() {
    let mut child = KilledOnDrop(stuck("wait"));
    // Far longer than an exit takes. Only real time can show that a process does not exit.
    sleep(Duration::from_secs(3));
    assert_eq!(child.0.try_wait().unwrap(), None, "the process was not configured to exit");
}

fn stuck(how: &str) -> Child {
    let test = env::current_exe().unwrap();
    let mut command = Command::new(test);
    command
        .args(["--exact", "stuck_process::child_process_of_the_tests_above"])
        .env(STUCK, how)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Does nothing unless a test above starts it in a child process.
#[test]
fn child_process_of_the_tests_above() {
    let Ok(how) = env::var(STUCK) else { return };
    let (report_stuck, is_stuck) = mpsc::channel();
    let stuck = service_fn("stuck", move |_| {
        let report_stuck = report_stuck.clone();
        async move {
            report_stuck.send(()).unwrap();
            // Blocks the thread of the runtime.
            sleep(PATIENCE * 10);
            Ok(())
        }
    });
    let limit = Duration::from_millis(200);
    let mut builder = ServiceHost::builder().service(stuck.stop_timeout(limit)).shutdown_timeout(limit * 4);
    if how == "exit" {
        builder = builder.exit_within(limit);
    }
    let host = builder.build().unwrap();
    let handle = host.handle();
    thread::spawn(move || {
        is_stuck.recv_timeout(PATIENCE).unwrap();
        handle.request_shutdown();
    });
    let runtime = current_thread();
    let ended = runtime.block_on(host.run_until(pending::<Result<(), Infallible>>()));
    panic!("the only thread is stuck, but `run_until` returned {ended:?}");
}
