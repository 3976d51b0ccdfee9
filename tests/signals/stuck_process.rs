//! A process whose runtime is stuck.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::convert::Infallible;
use std::env;
use std::fmt::Debug;
use std::future::pending;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use onelane::background::{ServiceHost, service_fn};
use support::runtimes::current_thread;
use support::waiting::PATIENCE;
use tracing::field::Field;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::KilledOnDrop;

const STUCK: &str = "ONELANE_TEST_STUCK";

#[test]
fn process_whose_only_thread_is_stuck_exits_if_configured_to() {
    let mut child = KilledOnDrop(stuck("exit"));
    assert_eq!(exit_code(&mut child), Some(1), "the exit code reports the stuck service");
    let text = io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    let event = "ERROR process still running after its host stopped: exiting";
    assert!(text.contains(event), "{text}");
}

#[cfg(unix)]
#[test]
fn process_whose_only_thread_is_stuck_exits_on_a_signal_after_its_host_has_stopped() {
    let mut child = KilledOnDrop(stuck("wait"));
    let mut events = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(events.any(|event| event == "INFO host stopped"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child.0), rustix::process::Signal::TERM).unwrap();
    assert_eq!(exit_code(&mut child), Some(128 + 15));
    assert!(events.any(|event| event == "WARN signal received after the host stopped: exiting at once"));
}

/// Waits for the end of a process.
fn exit_code(child: &mut KilledOnDrop) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            return status.code();
        }
        assert!(start.elapsed() < PATIENCE, "the process hangs");
        // Real time, because the child process has its own clock.
        sleep(Duration::from_millis(10));
    }
}

/// Writes each event to the standard error of the process, which the test harness would capture otherwise.
struct ToStderr;

impl<S: tracing::Subscriber> Layer<S> for ToStderr {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = event.metadata().level();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            if field.name() == "message" {
                io::stderr().write_all(format!("{level} {value:?}\n").as_bytes()).unwrap();
            }
        });
    }
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
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Does nothing unless a test above starts it in a child process.
#[test]
fn child_process_of_the_tests_above() {
    let Ok(how) = env::var(STUCK) else { return };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(ToStderr)).unwrap();
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
