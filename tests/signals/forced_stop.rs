//! Tests which signal forces a shutdown: a second one, but never the first, whatever the reason for the shutdown.
//!
//! Signals reach all hosts in a process, so each scenario runs in its own process: this binary, started again for one
//! test.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails on anything unexpected")]

use std::convert::Infallible;
use std::future::Future;
use std::io::Read;
use std::process::{self, Child, Command, Stdio};
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

const SCENARIO: &str = "ONELANE_TEST_SIGNALS";
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for an effect of a signal that must have none. A real effect takes less than 5 ms.
const EFFECT_TIMEOUT: Duration = Duration::from_millis(300);

/// Kills the child process on drop.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a scenario, and returns its exit code and what it wrote to stderr.
fn run(scenario: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "forced_stop::child_of_the_tests_above", "--nocapture"]).env(SCENARIO, scenario);
    let mut child = KillOnDrop(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE * 2, "{scenario} hangs");
        // The other process runs in real time.
        thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.code(), text)
}

#[test]
fn first_signal_after_a_request_to_stop_does_not_force_it() {
    let (code, text) = run("request, signal");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn second_signal_after_a_request_to_stop_forces_it() {
    let (code, text) = run("request, signal, signal");
    assert!(matches!(code, Some(130 | 143)), "{code:?} {text}");
}

#[test]
fn signal_after_a_signal_and_a_request_forces_the_stop() {
    let (code, text) = run("signal, request, signal");
    assert!(matches!(code, Some(130 | 143)), "{code:?} {text}");
}

#[test]
fn first_signal_after_the_host_gave_up_on_a_service_does_not_force_the_shutdown() {
    let (code, text) = run("gave up, signal");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the host gave up on the service \"fails\": failed: no license"), "{text}");
}

#[test]
fn first_signal_after_the_server_ended_does_not_force_the_shutdown() {
    let (code, text) = run("server ends, signal");
    assert_eq!(code, Some(0), "{text}");
}

/// A host with a server that ends, and a service that stops, when the test allows it.
struct Scenario {
    handle: HostHandle,
    server_may_end: Arc<Semaphore>,
    service_may_stop: Arc<Semaphore>,
    run: JoinHandle<Result<ShutdownReport, HostError>>,
}

async fn pass(gate: Arc<Semaphore>) {
    gate.acquire().await.unwrap().forget();
}

impl Scenario {
    fn start(service: Option<Service>) -> Self {
        let [server_may_end, service_may_stop] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let stop = Arc::clone(&service_may_stop);
        let on_stop = move || {
            let stop = Arc::clone(&stop);
            async move {
                pass(stop).await;
                Ok(())
            }
        };
        let slow = lifespan("slow", || async { Ok(()) }, on_stop).cleanup_timeout(PATIENCE);
        let builder = ServiceHost::builder().drain_timeout(PATIENCE).shutdown_timeout(PATIENCE * 2).service(slow);
        let host = service.into_iter().fold(builder, |builder, service| builder.service(service)).build().unwrap();
        let (handle, end) = (host.handle(), Arc::clone(&server_may_end));
        let run = tokio::spawn(host.run_until(async move {
            pass(end).await;
            Ok::<(), Infallible>(())
        }));
        Self { handle, server_may_end, service_may_stop, run }
    }

    async fn reach(&self, phase: HostPhase) {
        let start = Instant::now();
        while self.handle.status().phase != phase {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.handle.status());
            // The host decides on its own thread, in real time.
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends a signal and asserts that it has no effect.
    async fn assert_ignores(&self, signal: Signal) {
        let before = self.handle.status().phase;
        kill_process(getpid(), signal).unwrap();
        sleep(EFFECT_TIMEOUT).await;
        let status = self.handle.status();
        assert_eq!(status.phase, before, "the first signal forced the shutdown");
    }

    /// Lets the server and the service end, and returns the result of the host.
    async fn finish(self) -> Result<ShutdownReport, HostError> {
        self.server_may_end.add_permits(1);
        self.service_may_stop.add_permits(1);
        self.run.await.unwrap()
    }

    /// Sends another signal and returns the report of the forced shutdown. The server and the service never end on
    /// their own.
    async fn forced_by(self, signal: Signal) -> ShutdownReport {
        kill_process(getpid(), signal).unwrap();
        let report = self.run.await.unwrap().unwrap();
        let Some(Trigger::Signal(signal)) = report.forced_by else { panic!("{report:?}") };
        assert!(report.server_cut_off);
        // If two signals arrive together, the system decides which one is the second.
        assert_eq!(i32::from(report.exit_code()), 128 + signal);
        report
    }
}

/// The entry point of the child process. Does nothing when it runs as a regular test.
#[test]
#[allow(clippy::exit, clippy::print_stderr, reason = "the parent process reads the exit code and stderr")]
fn child_of_the_tests_above() {
    let Ok(name) = env::var(SCENARIO) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let code = runtime.block_on(async {
        match &*name {
            "request, signal" => exit_code_of(request_then_signal(Signal::TERM)).await,
            "request, signal, signal" => {
                let scenario = request_then_signal(Signal::TERM).await;
                scenario.forced_by(Signal::INT).await.exit_code()
            }
            "signal, request, signal" => {
                let scenario = Scenario::start(None);
                scenario.reach(HostPhase::Running).await;
                kill_process(getpid(), Signal::TERM).unwrap();
                scenario.reach(HostPhase::Draining).await;
                scenario.handle.request_shutdown();
                let report = scenario.forced_by(Signal::TERM).await;
                assert_eq!(report.trigger, Trigger::Signal(15));
                report.exit_code()
            }
            "gave up, signal" => {
                let fails = service_fn("fails", |_| async { Err("no license".into()) }).restart(Restart::Never);
                let scenario = Scenario::start(Some(fails));
                scenario.reach(HostPhase::Draining).await;
                scenario.assert_ignores(Signal::INT).await;
                let error = scenario.finish().await.unwrap_err();
                let report = error.report().unwrap();
                assert!(report.forced_by.is_none() && !report.server_cut_off, "{report:?}");
                eprintln!("{error:?}");
                error.exit_code()
            }
            "server ends, signal" => {
                let scenario = Scenario::start(None);
                scenario.reach(HostPhase::Running).await;
                scenario.server_may_end.add_permits(1);
                scenario.reach(HostPhase::Stopping).await;
                exit_code_of(async {
                    scenario.assert_ignores(Signal::TERM).await;
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
async fn request_then_signal(signal: Signal) -> Scenario {
    let scenario = Scenario::start(None);
    scenario.reach(HostPhase::Running).await;
    scenario.handle.request_shutdown();
    scenario.reach(HostPhase::Draining).await;
    scenario.assert_ignores(signal).await;
    scenario
}

/// Lets the host finish in order and returns its exit code.
async fn exit_code_of(scenario: impl Future<Output = Scenario>) -> u8 {
    let report = scenario.await.finish().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    report.exit_code()
}
