//! The second signal forces the stop, and not the first, no matter why the host stops.
//!
//! Signals reach all hosts of a process, so each scenario has its own process.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::convert::Infallible;
use std::future::Future;
use std::io::Read;
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use onelane::background::{
    HostError, HostHandle, HostPhase, Restart, Service, ServiceHost, ShutdownReport, Trigger, lifespan, service_fn,
};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use support::runtimes::multi_thread;
use support::waiting::PATIENCE;

use crate::KilledOnDrop;

const SCENARIO: &str = "ONELANE_TEST_SIGNALS";
/// The time after which a signal counts as ignored. A signal that is not ignored takes effect in less than 5 ms.
const SETTLE_TIME: Duration = Duration::from_millis(300);

/// Runs a scenario, and returns its exit code and its stderr.
fn run(scenario: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "forced_stop::child_process_of_the_tests_above", "--nocapture"]).env(SCENARIO, scenario);
    let mut child = KilledOnDrop(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE * 2, "the scenario {scenario:?} hangs");
        // Real time, because the child process has its own clock.
        thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.code(), text)
}

#[test]
fn first_signal_after_a_shutdown_request_does_not_force_the_stop() {
    let (code, text) = run("request, signal");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn second_signal_after_a_shutdown_request_forces_the_stop() {
    let (code, text) = run("request, signal, signal");
    assert!(matches!(code, Some(130 | 143)), "{code:?} {text}");
}

#[test]
fn signal_after_a_signal_and_a_shutdown_request_forces_the_stop() {
    let (code, text) = run("signal, request, signal");
    assert!(matches!(code, Some(130 | 143)), "{code:?} {text}");
}

#[test]
fn first_signal_after_a_service_was_given_up_does_not_force_the_stop() {
    let (code, text) = run("given up, signal");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the host gave up on the service \"fails\": failed: no license"), "{text}");
}

#[test]
fn first_signal_after_the_server_has_ended_does_not_force_the_stop() {
    let (code, text) = run("server ends, signal");
    assert_eq!(code, Some(0), "{text}");
}

/// A host whose server ends, and whose service stops, when the test lets them.
struct Scenario {
    handle: HostHandle,
    server_may_end: Arc<Semaphore>,
    service_may_stop: Arc<Semaphore>,
    run: JoinHandle<Result<ShutdownReport, HostError>>,
}

async fn wait_for_permit(gate: Arc<Semaphore>) {
    gate.acquire().await.unwrap().forget();
}

impl Scenario {
    fn start(service: Option<Service>) -> Self {
        let [server_may_end, service_may_stop] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let stop = Arc::clone(&service_may_stop);
        let on_stop = move |_| {
            let stop = Arc::clone(&stop);
            async move {
                wait_for_permit(stop).await;
                Ok(())
            }
        };
        let slow = lifespan("slow", |_| async { Ok(()) }, on_stop).cleanup_timeout(PATIENCE);
        let builder = ServiceHost::builder().drain_timeout(PATIENCE).shutdown_timeout(PATIENCE * 2).service(slow);
        let host = service.into_iter().fold(builder, |builder, service| builder.service(service)).build().unwrap();
        let (handle, end) = (host.handle(), Arc::clone(&server_may_end));
        let run = tokio::spawn(host.run_until(async move {
            wait_for_permit(end).await;
            Ok::<(), Infallible>(())
        }));
        Self { handle, server_may_end, service_may_stop, run }
    }

    async fn wait_for_phase(&self, phase: HostPhase) {
        let start = Instant::now();
        while self.handle.status().phase() != phase {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.handle.status());
            // The host decides on its own thread, in real time.
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends a signal and asserts that it has no effect.
    async fn assert_ignored(&self, signal: Signal) {
        let before = self.handle.status().phase();
        kill_process(getpid(), signal).unwrap();
        sleep(SETTLE_TIME).await;
        let status = self.handle.status();
        assert_eq!(status.phase(), before, "the first signal forced the stop");
    }

    async fn finish(self) -> Result<ShutdownReport, HostError> {
        self.server_may_end.add_permits(1);
        self.service_may_stop.add_permits(1);
        self.run.await.unwrap()
    }

    /// Sends another signal and returns the report. The server and the service never end by themselves.
    async fn forced_by(self, signal: Signal) -> ShutdownReport {
        kill_process(getpid(), signal).unwrap();
        let report = self.run.await.unwrap().unwrap();
        let Some(Trigger::Signal(signal)) = report.forced_by() else { panic!("{report:?}") };
        assert!(report.server_cut_off());
        // If two signals arrive at the same time, the system chooses their order.
        assert_eq!(i32::from(report.exit_code()), 128 + signal);
        report
    }
}

/// Does nothing unless a test above starts it in a child process.
#[test]
#[allow(clippy::exit, clippy::print_stderr, reason = "its parent reads the exit code and stderr")]
fn child_process_of_the_tests_above() {
    let Ok(scenario) = env::var(SCENARIO) else { return };
    let runtime = multi_thread(2);
    let code = runtime.block_on(async {
        match &*scenario {
            "request, signal" => exit_code_of_a_clean_stop(stop_requested_then_signalled(Signal::TERM)).await,
            "request, signal, signal" => {
                let scenario = stop_requested_then_signalled(Signal::TERM).await;
                scenario.forced_by(Signal::INT).await.exit_code()
            }
            "signal, request, signal" => {
                let scenario = Scenario::start(None);
                scenario.wait_for_phase(HostPhase::Running).await;
                kill_process(getpid(), Signal::TERM).unwrap();
                scenario.wait_for_phase(HostPhase::Draining).await;
                scenario.handle.request_shutdown();
                let report = scenario.forced_by(Signal::TERM).await;
                assert_eq!(*report.trigger(), Trigger::Signal(15));
                report.exit_code()
            }
            "given up, signal" => {
                let fails = service_fn("fails", |_| async { Err("no license".into()) }).restart(Restart::Never);
                // It begins when every other service has started, so it fails while the host runs.
                let fails = fails.after("slow");
                let scenario = Scenario::start(Some(fails));
                scenario.wait_for_phase(HostPhase::Draining).await;
                scenario.assert_ignored(Signal::INT).await;
                let error = scenario.finish().await.unwrap_err();
                let report = error.report().unwrap();
                assert!(report.forced_by().is_none() && !report.server_cut_off(), "{report:?}");
                eprintln!("{error:?}");
                error.exit_code()
            }
            "server ends, signal" => {
                let scenario = Scenario::start(None);
                scenario.wait_for_phase(HostPhase::Running).await;
                scenario.server_may_end.add_permits(1);
                scenario.wait_for_phase(HostPhase::Stopping).await;
                exit_code_of_a_clean_stop(async {
                    scenario.assert_ignored(Signal::TERM).await;
                    scenario
                })
                .await
            }
            other => panic!("no scenario is named {other:?}"),
        }
    });
    process::exit(code.into());
}

/// Starts a host, requests its shutdown, and sends a first signal.
async fn stop_requested_then_signalled(signal: Signal) -> Scenario {
    let scenario = Scenario::start(None);
    scenario.wait_for_phase(HostPhase::Running).await;
    scenario.handle.request_shutdown();
    scenario.wait_for_phase(HostPhase::Draining).await;
    scenario.assert_ignored(signal).await;
    scenario
}

/// Lets the host of a scenario stop cleanly, and returns its exit code.
async fn exit_code_of_a_clean_stop(scenario: impl Future<Output = Scenario>) -> u8 {
    let report = scenario.await.finish().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    report.exit_code()
}
