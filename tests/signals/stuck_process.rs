//! A process whose runtime is stuck, which only a process of its own can show.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

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

/// Kills the child with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn process_whose_only_thread_is_stuck_ends_by_itself_where_it_was_asked_to() {
    let mut child = Killed(stuck("exit"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "it hangs");
        // Another process has a clock of its own.
        sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(1), "the stuck service is told by the exit code");
}

#[test]
fn process_whose_only_thread_is_stuck_is_waited_for_otherwise() {
    let mut child = Killed(stuck("wait"));
    // Far longer than it takes to end where it was asked to: that a process does not end shows in real time only.
    sleep(Duration::from_secs(3));
    assert_eq!(child.0.try_wait().unwrap(), None, "it was not asked to end");
}

fn stuck(how: &str) -> Child {
    let test = env::current_exe().unwrap();
    let mut command = Command::new(test);
    command
        .args(["--exact", "stuck_process::child_of_the_tests_above"])
        .env(STUCK, how)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Run as a test of its own, it has nothing to do.
#[test]
fn child_of_the_tests_above() {
    let Ok(how) = env::var(STUCK) else { return };
    let (tell, is_stuck) = mpsc::channel();
    let stuck = service_fn("stuck", move |_| {
        let tell = tell.clone();
        async move {
            tell.send(()).unwrap();
            // It has to block the thread of its runtime.
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
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(host.run_until(pending::<Result<(), Infallible>>()));
    panic!("its only thread is stuck, and yet it came back with {ended:?}");
}
