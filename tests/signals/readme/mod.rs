//! The complete program of the README, in a process of its own: SIGTERM while a handler blocks its thread.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod program;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use support::client::RawClient;
use support::runtimes::current_thread;
use support::waiting::PATIENCE;

use crate::KilledOnDrop;

const SCENARIO: &str = "ONELANE_TEST_README";
const DRAIN: Duration = Duration::from_millis(300);

/// An address that is free, in place of the one of the README.
#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
fn address() -> String {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    println!("listening on {address}");
    address.to_string()
}

/// How long the query of the blocking handler takes: it hangs.
#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
fn query() -> Duration {
    println!("query begins");
    Duration::from_secs(3600)
}

#[test]
fn program_is_the_one_of_the_readme() {
    let readme = include_str!("../../../README.md");
    let program = include_str!("program.rs")
        .replace("super::query()", "Duration::from_millis(100)")
        .replace("        .drain_timeout(super::DRAIN)\n", "")
        .replace("super::address()", "\"127.0.0.1:3000\"")
        .replace("pub(super) async fn main", "async fn main");
    assert!(readme.contains(&format!("```rust,no_run\n{program}```\n")), "the README has another program:\n{program}");
}

#[test]
fn blocked_handler_does_not_keep_the_process_after_sigterm() {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "readme::program_of_the_test_above", "--nocapture"]).env(SCENARIO, "1");
    let mut child = KilledOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("listening on ")).unwrap();
    let address = line.rsplit(' ').next().unwrap().parse().unwrap();
    let runtime = current_thread();
    // The server binds the port a moment later.
    let start = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < PATIENCE, "the server does not listen");
        thread::sleep(Duration::from_millis(5));
    }
    let _client = runtime.block_on(RawClient::send(address, "GET /users/1 HTTP/1.1\r\nhost: test\r\n\r\n".to_owned()));
    assert!(lines.any(|line| line.contains("query begins")));
    kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "the process stays after SIGTERM");
        // Real time, because the child process has its own clock.
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(1), "the report names the work that was left");
}

/// Does nothing unless the test above starts it in a child process.
#[test]
#[allow(clippy::exit, reason = "its parent reads the exit code")]
fn program_of_the_test_above() {
    if env::var(SCENARIO).is_ok() {
        std::process::exit(program::main().unwrap().exit_code().into());
    }
}
