//! SIGTERM in the middle of everything that a request can be doing, in each framework: the work ends, or the report
//! names it and the exit code is not 0. Each case is a process of its own, because reports name the work of the process.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod apps;

use std::time::Duration;

use futures::future::join_all;
use rustix::process::Signal;
use support::client::Disconnect;
use support::http::{self, Client};
use support::process::Example;
use tokio::time::sleep;

/// The framework, the case, and how long the work and the drain take, in milliseconds.
const PROGRAM: &str = "ONELANE_TEST_TOGETHER";
const SHORT: Duration = Duration::from_millis(500);
const ENDLESS: Duration = Duration::from_secs(3600);
/// How long the server has if the work ends, and if it does not.
const AMPLE: Duration = Duration::from_secs(10);
const SCARCE: Duration = Duration::from_millis(1500);

/// What a program does when it is asked to stop.
struct Case {
    /// The last segment of the path.
    name: &'static str,
    clients: usize,
    /// The clients disconnect before the program is asked to stop.
    leave: bool,
    /// What the report names if the work does not end.
    unfinished: &'static [&'static str],
}

const fn case(name: &'static str, clients: usize, leave: bool, unfinished: &'static [&'static str]) -> Case {
    Case { name, clients, leave, unfinished }
}

const CASES: [Case; 11] = [
    case("guarded", 1, false, &["1 requests", "1 guarded"]),
    // The second client waits in the queue of the guard.
    case("guarded", 2, false, &["1 requests", "1 guarded"]),
    case("guarded", 1, true, &["1 guarded"]),
    case("flight", 1, true, &["1 page"]),
    case("blocking", 1, false, &["1 requests", "1 blocking"]),
    case("blocking", 1, true, &["1 blocking"]),
    case("cpu", 1, false, &["1 requests", "1 cpu"]),
    case("cpu", 1, true, &["1 cpu"]),
    // Dropping the server at the deadline drops the request, so the worker is killed and not left behind.
    case("process", 1, false, &["1 requests"]),
    case("stream", 1, false, &["1 requests"]),
    case("periodic", 0, false, &["service periodic"]),
];

/// Starts the program of a case, up to the moment of the signal.
async fn start(framework: &str, case: &Case, work: Duration, drain: Duration) -> (Example, Vec<Client>) {
    let program = format!("{framework} {} {} {}", case.name, work.as_millis(), drain.as_millis());
    let program = Example::of_test("together::program_of_the_tests_above", &[(PROGRAM, &program)]).await;
    let mut clients = Vec::new();
    for _ in 0..case.clients {
        clients.push(Client::sending(program.address, http::get(&format!("/{}", case.name))).await);
        // The first one is the one that runs.
        program.wait_for("work begins").await;
    }
    if case.clients > 1 {
        program.wait_for("a request waits").await;
    }
    if case.leave {
        for mut client in clients.drain(..) {
            // actix-web treats the end of the stream as a client that still reads.
            client.disconnect(Disconnect::Rst).await;
        }
        program.wait_for("work is detached").await;
    }
    program.wait_for("work begins").await;
    (program, clients)
}

/// Returns everything that the clients receive until the server closes their connections.
async fn received(clients: Vec<Client>) -> Vec<String> {
    let rests = clients.into_iter().map(|mut client| async move { client.rest().await });
    join_all(rests).await.into_iter().map(|rest| String::from_utf8(rest).unwrap().to_lowercase()).collect()
}

async fn work_ends(framework: &str, case: &Case) {
    let (mut program, clients) = start(framework, case, SHORT, AMPLE).await;
    program.signal(Signal::TERM);
    for response in received(clients).await {
        let is_whole = response.starts_with("http/1.1 200") && response.contains("done");
        // A response that began before the signal says nothing about the end of the connection.
        let is_last = response.contains("\r\nconnection: close\r\n") || case.name == "stream";
        assert!(is_whole && is_last, "{framework} {}: {response}", case.name);
    }
    assert_eq!(program.exit_code().await, Some(0), "{framework} {}: {}", case.name, program.printed());
    assert!(program.printed().contains("work ends"), "{framework} {}: {}", case.name, program.printed());
}

async fn work_is_named(framework: &str, case: &Case) {
    let (mut program, clients) = start(framework, case, ENDLESS, SCARCE).await;
    program.signal(Signal::TERM);
    let mut responses = received(clients).await.into_iter();
    if case.name != "stream" {
        assert_eq!(responses.next().unwrap_or_default(), "", "{framework} {}: it is cut off", case.name);
        for response in responses {
            let is_refused = response.starts_with("http/1.1 503") && response.contains("\r\nconnection: close\r\n");
            assert!(is_refused, "{framework} {}: {response:?}", case.name);
        }
    }
    assert_eq!(program.exit_code().await, Some(1), "{framework} {}: {}", case.name, program.printed());
    let printed = program.printed();
    for name in case.unfinished {
        assert!(printed.contains(&format!("unfinished: {name}.")), "{framework} {}, {name}: {printed}", case.name);
    }
    assert_eq!(printed.matches("unfinished").count(), case.unfinished.len(), "{framework} {}: {printed}", case.name);
}

/// Without the second signal, the program would stay for much longer than the test waits.
async fn second_signal_ends_the_process(framework: &str, case: &Case) {
    let (mut program, _clients) = start(framework, case, ENDLESS, ENDLESS).await;
    program.signal(Signal::TERM);
    program.wait_for("draining").await;
    sleep(Duration::from_millis(20)).await;
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code().await, Some(128 + 15), "{framework} {}: {}", case.name, program.printed());
}

#[tokio::test]
async fn work_of_each_kind_ends_in_axum() {
    join_all(CASES.iter().map(|case| work_ends("axum", case))).await;
}

#[tokio::test]
async fn work_of_each_kind_ends_in_actix() {
    join_all(CASES.iter().map(|case| work_ends("actix", case))).await;
}

#[tokio::test]
async fn work_of_each_kind_that_does_not_end_is_named_in_axum() {
    join_all(CASES.iter().map(|case| work_is_named("axum", case))).await;
}

#[tokio::test]
async fn work_of_each_kind_that_does_not_end_is_named_in_actix() {
    join_all(CASES.iter().map(|case| work_is_named("actix", case))).await;
}

#[tokio::test]
async fn second_signal_ends_the_process_at_each_moment_in_axum() {
    join_all(CASES.iter().map(|case| second_signal_ends_the_process("axum", case))).await;
}

#[tokio::test]
async fn second_signal_ends_the_process_at_each_moment_in_actix() {
    join_all(CASES.iter().map(|case| second_signal_ends_the_process("actix", case))).await;
}

/// Does nothing unless a test above starts it in a child process.
#[test]
fn program_of_the_tests_above() {
    let Ok(program) = std::env::var(PROGRAM) else { return };
    let [framework, case, _, drain] = &program.split(' ').collect::<Vec<_>>()[..] else { unreachable!("{program}") };
    apps::run(framework, case, Duration::from_millis(drain.parse().unwrap()));
}
