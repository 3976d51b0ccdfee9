//! The complete programs of the README, each in a process of its own: SIGTERM in the middle of a handler.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

#[allow(clippy::needless_pass_by_value, reason = "a handler takes its arguments by value")]
mod actix_program;
mod axum_program;

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use support::client::{Disconnect, RawClient};
use support::runtimes::current_thread;
use support::waiting::PATIENCE;
use tokio::time::sleep;

use crate::KilledOnDrop;

/// The framework, how long the host waits for work, and how long a report takes, the times in milliseconds.
const SCENARIO: &str = "ONELANE_TEST_README";
const ENDLESS: Duration = Duration::from_secs(3600);

fn scenario() -> Option<(String, Duration, Duration)> {
    let scenario = env::var(SCENARIO).ok()?;
    let [framework, times @ ..] = &scenario.split(' ').collect::<Vec<_>>()[..] else { unreachable!("it has words") };
    let times: Vec<_> = times.iter().map(|millis| Duration::from_millis(millis.parse().unwrap())).collect();
    Some(((*framework).to_owned(), times[0], times[1]))
}

/// An address that is free, in place of the one of the README.
#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
fn address() -> String {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    println!("listening on {address}");
    address.to_string()
}

fn drain() -> Duration {
    scenario().unwrap().1
}

/// The query of the report, which takes as long as the scenario says.
#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
async fn report_work() {
    println!("report begins");
    tokio::spawn(async {
        while onelane::detached::running().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        println!("report is detached");
    });
    sleep(scenario().unwrap().2).await;
    println!("report ends");
}

/// How long the query of the blocking handler takes: it hangs.
#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
fn query() -> Duration {
    println!("query begins");
    ENDLESS
}

/// A program of the README in a process of its own.
struct Program {
    child: KilledOnDrop,
    lines: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Program {
    fn start(framework: &str, drain: Duration, report: Duration) -> Self {
        let scenario = format!("{framework} {} {}", drain.as_millis(), report.as_millis());
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "readme::program_of_the_tests_above", "--nocapture"]).env(SCENARIO, scenario);
        let mut child = KilledOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("listening on ")).unwrap();
        let address = line.rsplit(' ').next().unwrap().parse().unwrap();
        // The server binds the port a moment later.
        let start = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < PATIENCE, "the server does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Self { child, lines, address }
    }

    async fn request(&self, line: &str) -> RawClient {
        RawClient::send(self.address, format!("{line} HTTP/1.1\r\nhost: test\r\n\r\n")).await
    }

    fn wait_for(&mut self, text: &str) {
        assert!(self.lines.any(|line| line.unwrap().contains(text)), "the process ended before {text:?}");
    }

    /// Sends SIGTERM. Returns the exit code, and what the process printed from then on.
    fn terminate(mut self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child.0), Signal::TERM).unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the process stays after SIGTERM");
            // Real time, because the child process has its own clock.
            thread::sleep(Duration::from_millis(10));
        };
        let printed: Vec<_> = self.lines.map(Result::unwrap).collect();
        (status.code(), printed.join("\n"))
    }

    /// Starts a program, and lets a client disconnect in the middle of its report.
    fn with_detached_report(framework: &str, drain: Duration, report: Duration) -> Self {
        let mut program = Self::start(framework, drain, report);
        let runtime = current_thread();
        let client = runtime.block_on(program.request("POST /report"));
        program.wait_for("report begins");
        // actix-web treats the end of the stream as a client that still reads.
        runtime.block_on(client.disconnect(Disconnect::Rst));
        program.wait_for("report is detached");
        program
    }
}

fn detached_report_is_finished(framework: &str) {
    let program = Program::with_detached_report(framework, PATIENCE / 2, Duration::from_millis(700));
    let (code, printed) = program.terminate();
    assert!(printed.contains("report ends"), "{printed}");
    assert_eq!(code, Some(0), "{printed}");
}

fn detached_report_that_takes_too_long_is_reported(framework: &str) {
    let program = Program::with_detached_report(framework, Duration::from_millis(300), ENDLESS);
    let (code, printed) = program.terminate();
    assert!(printed.contains("1 of report unfinished"), "{printed}");
    assert_eq!(code, Some(1), "{printed}");
}

fn blocked_handler_does_not_keep_the_process(framework: &str) {
    let mut program = Program::start(framework, Duration::from_millis(300), ENDLESS);
    let _client = current_thread().block_on(program.request("GET /users/1"));
    program.wait_for("query begins");
    let (code, printed) = program.terminate();
    assert_eq!(code, Some(1), "the report names the work that was left: {printed}");
}

#[test]
fn programs_are_those_of_the_readme() {
    let readme = include_str!("../../../README.md");
    for program in [include_str!("axum_program.rs"), include_str!("actix_program.rs")] {
        let program = program
            .replace("super::report_work().await;", "tokio::time::sleep(Duration::from_millis(500)).await;")
            .replace("super::query()", "Duration::from_millis(100)")
            .replace("        .drain_timeout(super::drain())\n", "")
            .replace("super::address()", "\"127.0.0.1:3000\"")
            .replace("pub(super) async fn main", "async fn main");
        let is_there = readme.contains(&format!("```rust,no_run\n{program}```\n"));
        assert!(is_there, "the README has another program:\n{program}");
    }
}

#[test]
fn report_in_axum_is_finished_after_sigterm_although_its_client_has_disconnected() {
    detached_report_is_finished("axum");
}

#[test]
fn report_in_actix_is_finished_after_sigterm_although_its_client_has_disconnected() {
    detached_report_is_finished("actix");
}

#[test]
fn report_in_axum_that_takes_too_long_is_named_and_the_exit_code_is_1() {
    detached_report_that_takes_too_long_is_reported("axum");
}

#[test]
fn report_in_actix_that_takes_too_long_is_named_and_the_exit_code_is_1() {
    detached_report_that_takes_too_long_is_reported("actix");
}

#[test]
fn blocked_handler_in_axum_does_not_keep_the_process_after_sigterm() {
    blocked_handler_does_not_keep_the_process("axum");
}

#[test]
fn blocked_handler_in_actix_does_not_keep_the_process_after_sigterm() {
    blocked_handler_does_not_keep_the_process("actix");
}

/// Does nothing unless a test above starts it in a child process.
#[test]
#[allow(clippy::exit, clippy::print_stdout, reason = "its parent reads the exit code and stdout")]
fn program_of_the_tests_above() {
    let Some((framework, ..)) = scenario() else { return };
    let program = if framework == "axum" { axum_program::main } else { actix_program::main };
    let report = program().unwrap();
    for work in report.unfinished() {
        println!("{} of {} unfinished", work.count(), work.name());
    }
    std::process::exit(report.exit_code().into());
}
