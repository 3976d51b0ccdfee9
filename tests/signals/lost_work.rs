//! SIGTERM in the middle of a handler whose client has disconnected. The work is finished, or the report names it and
//! the exit code is not 0. The server is the one of the README, in a process of its own, in each framework.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use onelane::background::ShutdownReport;
use onelane::web::FlightOptions;
use onelane::web::actix::{FlightMiddleware, GuardMiddleware};
use onelane::web::axum::GuardLayer;
use onelane::{EndpointGuard, ServiceHost, SingleFlight, run_blocking};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use support::client::{Disconnect, RawClient};
use support::runtimes::{current_thread, multi_thread};
use support::waiting::PATIENCE;

use crate::KilledOnDrop;

const SCENARIO: &str = "ONELANE_TEST_LOST_WORK";
/// How long the work takes in each scenario that lets it finish. The client disconnects at its beginning.
const WORK: Duration = Duration::from_millis(700);

static REPORT: EndpointGuard = EndpointGuard::new("report");
static PAGE: SingleFlight<u8, u8> = SingleFlight::builder("page").detached().build();

/// The lines of a server's stdout.
struct Lines(BufReader<ChildStdout>);

impl Lines {
    /// Returns the rest of the first line that begins with `start`.
    fn wait_for(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the server ended before {start:?}");
            if let Some(at) = line.find(start) {
                return line[at + start.len()..].trim().to_owned();
            }
        }
    }

    fn rest(mut self) -> String {
        let mut rest = String::new();
        while self.0.read_line(&mut rest).unwrap() > 0 {}
        rest
    }
}

/// Starts a server, disconnects in the middle of a request of several clients, and sends SIGTERM. Returns the exit code
/// and what the server printed from then on.
fn stop_in_the_middle(framework: &str, path: &str, work: Duration) -> (Option<i32>, String) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "lost_work::server_of_the_tests_above", "--nocapture"]);
    command.env(SCENARIO, format!("{framework} {}", work.as_millis()));
    let mut child = KilledOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = Lines(BufReader::new(child.0.stdout.take().unwrap()));
    let process = Pid::from_child(&child.0);
    // A server that hangs is killed, and then the lines end.
    let watchdog = thread::spawn(move || {
        thread::park_timeout(PATIENCE);
        let _ = kill_process(process, Signal::KILL);
    });
    let address = lines.wait_for("listening on ").parse().unwrap();
    let runtime = current_thread();
    let send = || RawClient::send(address, format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
    let first = runtime.block_on(send());
    lines.wait_for("work begins");
    let (mut clients, mut detached) = (vec![first], "work is detached");
    if path == "/shared" {
        // On other workers than the first one. A run with several callers counts as detached before they leave.
        clients.extend((0..3).map(|_| runtime.block_on(send())));
        lines.wait_for("4 requests share the run");
        detached = "no request waits";
    }
    // actix-web treats the end of the stream as a client that still reads.
    clients.into_iter().for_each(|client| runtime.block_on(client.disconnect(Disconnect::Rst)));
    lines.wait_for(detached);
    kill_process(process, Signal::TERM).unwrap();
    let rest = lines.rest();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "the server hangs");
        thread::sleep(Duration::from_millis(5));
    };
    // The child is gone, so the signal of the watchdog reaches nothing.
    watchdog.thread().unpark();
    (status.code(), rest)
}

fn work_is_finished(framework: &str, path: &str) {
    let (code, printed) = stop_in_the_middle(framework, path, WORK);
    assert!(printed.contains("work ends"), "{printed}");
    assert_eq!(code, Some(0), "{printed}");
}

fn work_is_reported(framework: &str, path: &str, name: &str) {
    let (code, printed) = stop_in_the_middle(framework, path, Duration::from_secs(600));
    assert!(printed.contains(&format!("1 of {name} unfinished")), "{printed}");
    assert_eq!(code, Some(1), "{printed}");
}

#[test]
fn guarded_handler_in_axum_finishes() {
    work_is_finished("axum", "/guarded");
}

#[test]
fn guarded_handler_in_actix_finishes() {
    work_is_finished("actix", "/guarded");
}

#[test]
fn detached_flight_in_axum_finishes() {
    work_is_finished("axum", "/flight");
}

#[test]
fn abandoned_task_in_axum_finishes() {
    work_is_finished("axum", "/blocking");
}

#[test]
fn guarded_handler_in_axum_that_takes_too_long_is_reported() {
    work_is_reported("axum", "/guarded", "report");
}

#[test]
fn guarded_handler_in_actix_that_takes_too_long_is_reported() {
    work_is_reported("actix", "/guarded", "report");
}

#[test]
fn detached_flight_in_axum_that_takes_too_long_is_reported() {
    work_is_reported("axum", "/flight", "page");
}

#[test]
fn detached_flight_of_several_workers_in_actix_finishes() {
    work_is_finished("actix", "/shared");
}

#[test]
fn detached_flight_of_several_workers_in_actix_that_takes_too_long_is_reported() {
    work_is_reported("actix", "/shared", "shared");
}

/// The server stops while the work is still running, so the worker of the work ends first.
#[test]
fn detached_flight_whose_worker_ends_in_actix_is_reported() {
    for _ in 0..3 {
        let (code, printed) = stop_in_the_middle("actix-at-once", "/shared", Duration::from_secs(600));
        assert!(printed.contains("1 of shared unfinished"), "{printed}");
        assert_eq!(code, Some(1), "{printed}");
    }
}

#[test]
fn abandoned_task_in_axum_that_takes_too_long_is_reported() {
    work_is_reported("axum", "/blocking", "default");
}

#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
async fn work(duration: Duration) -> &'static str {
    println!("work begins");
    tokio::spawn(async {
        while onelane::detached::running().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        println!("work is detached");
    });
    sleep(duration).await;
    println!("work ends");
    "done"
}

async fn blocking_work(duration: Duration) -> &'static str {
    let work = move || {
        tokio::runtime::Handle::current().block_on(work(duration));
    };
    run_blocking(work).await.unwrap();
    "done"
}

async fn flight_work(duration: Duration) -> &'static str {
    PAGE.run(1, move || async move {
        work(duration).await;
        Ok(1)
    })
    .await
    .unwrap();
    "done"
}

#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
async fn serve_axum(host: ServiceHost, duration: Duration) -> ShutdownReport {
    use axum::routing::get;
    let stop = host.handle().draining().cancelled_owned();
    let app = axum::Router::new()
        .route("/guarded", get(move || work(duration)).layer(GuardLayer::new(&REPORT)))
        .route("/flight", get(move || flight_work(duration)))
        .route("/blocking", get(move || blocking_work(duration)));
    let server = async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        axum::serve(listener, app).with_graceful_shutdown(stop).await
    };
    host.run_until(server).await.unwrap()
}

#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
async fn serve_actix(host: ServiceHost, duration: Duration, stops_at_once: bool) -> ShutdownReport {
    use actix_web::{App, HttpServer, web};
    let (draining, may_end) = (host.handle().draining(), host.handle().server_may_end());
    let stop = async move { if stops_at_once { draining.cancelled().await } else { may_end.await } };
    let shared = FlightMiddleware::new("shared").options(FlightOptions::new().detached());
    let stats = shared.clone();
    tokio::spawn(async move {
        while stats.stats().waiting < 4 {
            sleep(Duration::from_millis(1)).await;
        }
        println!("4 requests share the run");
        while stats.stats().waiting > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        println!("no request waits");
    });
    let server = async move {
        let app = move || {
            let handler = move || work(duration);
            App::new()
                .service(web::resource("/guarded").wrap(GuardMiddleware::new(&REPORT)).route(web::get().to(handler)))
                .service(web::resource("/shared").wrap(shared.clone()).route(web::get().to(handler)))
        };
        let server = HttpServer::new(app).workers(4).shutdown_signal(stop).bind("127.0.0.1:0")?;
        println!("listening on {}", server.addrs()[0]);
        server.run().await
    };
    host.run_until(server).await.unwrap()
}

/// Does nothing unless a test above starts it in a child process.
#[test]
#[allow(clippy::exit, clippy::print_stdout, reason = "its parent reads the exit code and stdout")]
fn server_of_the_tests_above() {
    let Ok(scenario) = env::var(SCENARIO) else { return };
    let (framework, millis) = scenario.split_once(' ').unwrap();
    let duration = Duration::from_millis(millis.parse().unwrap());
    let host = ServiceHost::builder().drain_timeout(WORK * 3).manage(&REPORT).manage(&PAGE).build().unwrap();
    let report = if framework == "axum" {
        let runtime = multi_thread(2);
        let report = runtime.block_on(serve_axum(host, duration));
        // A thread that is blocked by the work cannot be waited for.
        runtime.shutdown_background();
        report
    } else {
        actix_web::rt::System::new().block_on(serve_actix(host, duration, framework == "actix-at-once"))
    };
    for work in report.unfinished() {
        println!("{} of {} unfinished", work.count(), work.name());
    }
    std::process::exit(report.exit_code().into());
}
