//! Which signal forces a stop: a second one, and not the first, whatever the host stops for.
//!
//! Signals reach all hosts of a process, so each scenario has a process of its own: this binary, run again for one test.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

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
/// A signal that changes nothing leaves no trace. So long it has for changing something, which takes less than 5 ms.
const EFFECT: Duration = Duration::from_millis(300);

/// Kills the child with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a scenario, and returns its exit code and what it wrote to stderr.
fn run(scenario: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "forced_stop::child_of_the_tests_above", "--nocapture"]).env(SCENARIO, scenario);
    let mut child = Killed(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE * 2, "{scenario} hangs");
        // Another process has a clock of its own.
        thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.code(), text)
}

#[test]
fn first_signal_after_a_request_to_stop_forces_nothing() {
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
fn first_signal_after_a_service_was_given_up_forces_nothing() {
    let (code, text) = run("given up, signal");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the service \"fails\" was given up: failed: no license"), "{text}");
}

#[test]
fn first_signal_after_the_server_has_ended_forces_nothing() {
    let (code, text) = run("server ends, signal");
    assert_eq!(code, Some(0), "{text}");
}

/// A host whose server ends, and one of whose services stops, when it may.
struct Scene {
    handle: HostHandle,
    server_may_end: Arc<Semaphore>,
    service_may_stop: Arc<Semaphore>,
    run: JoinHandle<Result<ShutdownReport, HostError>>,
}

async fn passed(gate: Arc<Semaphore>) {
    gate.acquire().await.unwrap().forget();
}

impl Scene {
    fn start(service: Option<Service>) -> Self {
        let [server_may_end, service_may_stop] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let stop = Arc::clone(&service_may_stop);
        let on_stop = move || {
            let stop = Arc::clone(&stop);
            async move {
                passed(stop).await;
                Ok(())
            }
        };
        let slow = lifespan("slow", || async { Ok(()) }, on_stop).cleanup_timeout(PATIENCE);
        let builder = ServiceHost::builder().drain_timeout(PATIENCE).shutdown_timeout(PATIENCE * 2).service(slow);
        let host = service.into_iter().fold(builder, |builder, service| builder.service(service)).build().unwrap();
        let (handle, end) = (host.handle(), Arc::clone(&server_may_end));
        let run = tokio::spawn(host.run_until(async move {
            passed(end).await;
            Ok::<(), Infallible>(())
        }));
        Self { handle, server_may_end, service_may_stop, run }
    }

    async fn comes_to(&self, phase: HostPhase) {
        let start = Instant::now();
        while self.handle.status().phase != phase {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.handle.status());
            // The host decides on its own thread, in real time.
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends a signal, of which nothing may come.
    async fn ignores(&self, signal: Signal) {
        let before = self.handle.status().phase;
        kill_process(getpid(), signal).unwrap();
        sleep(EFFECT).await;
        let status = self.handle.status();
        assert_eq!(status.phase, before, "the first signal has forced the stop");
    }

    async fn ends(self) -> Result<ShutdownReport, HostError> {
        self.server_may_end.add_permits(1);
        self.service_may_stop.add_permits(1);
        self.run.await.unwrap()
    }

    /// The report of a host whose server and service never end by themselves, after another signal.
    async fn forced_by(self, signal: Signal) -> ShutdownReport {
        kill_process(getpid(), signal).unwrap();
        let report = self.run.await.unwrap().unwrap();
        let Some(Trigger::Signal(signal)) = report.forced_by else { panic!("{report:?}") };
        assert!(report.server_cut_off);
        // Which of two signals is the second one is the choice of the system, where they come at once.
        assert_eq!(i32::from(report.exit_code()), 128 + signal);
        report
    }
}

/// Run as a test of its own, it has nothing to do.
#[test]
#[allow(clippy::exit, clippy::print_stderr, reason = "they are how its parent is told of the end")]
fn child_of_the_tests_above() {
    let Ok(scenario) = env::var(SCENARIO) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let code = runtime.block_on(async {
        match &*scenario {
            "request, signal" => of_a_host_that_stops(request(Signal::TERM)).await,
            "request, signal, signal" => {
                let scene = request(Signal::TERM).await;
                scene.forced_by(Signal::INT).await.exit_code()
            }
            "signal, request, signal" => {
                let scene = Scene::start(None);
                scene.comes_to(HostPhase::Running).await;
                kill_process(getpid(), Signal::TERM).unwrap();
                scene.comes_to(HostPhase::Draining).await;
                scene.handle.request_shutdown();
                let report = scene.forced_by(Signal::TERM).await;
                assert_eq!(report.trigger, Trigger::Signal(15));
                report.exit_code()
            }
            "given up, signal" => {
                let fails = service_fn("fails", |_| async { Err("no license".into()) }).restart(Restart::Never);
                let scene = Scene::start(Some(fails));
                scene.comes_to(HostPhase::Draining).await;
                scene.ignores(Signal::INT).await;
                let error = scene.ends().await.unwrap_err();
                let report = error.report().unwrap();
                assert!(report.forced_by.is_none() && !report.server_cut_off, "{report:?}");
                eprintln!("{error:?}");
                error.exit_code()
            }
            "server ends, signal" => {
                let scene = Scene::start(None);
                scene.comes_to(HostPhase::Running).await;
                scene.server_may_end.add_permits(1);
                scene.comes_to(HostPhase::Stopping).await;
                of_a_host_that_stops(async {
                    scene.ignores(Signal::TERM).await;
                    scene
                })
                .await
            }
            other => panic!("no scenario is named {other:?}"),
        }
    });
    process::exit(code.into());
}

/// A host that was asked to stop, and has had a first signal since.
async fn request(signal: Signal) -> Scene {
    let scene = Scene::start(None);
    scene.comes_to(HostPhase::Running).await;
    scene.handle.request_shutdown();
    scene.comes_to(HostPhase::Draining).await;
    scene.ignores(signal).await;
    scene
}

/// The exit code of one that stops in good order from there.
async fn of_a_host_that_stops(scene: impl Future<Output = Scene>) -> u8 {
    let report = scene.await.ends().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    report.exit_code()
}
