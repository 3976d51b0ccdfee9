//! The examples about blocked workers, run as a user runs them.

use std::time::Duration;

use rustix::process::Signal;
use support::client::{RawClient, web_client};
use support::process::Example;
use tokio::task::JoinHandle;

/// `/ping` blocks for 2.5 times as long.
const HOLD: Duration = Duration::from_millis(400);

/// Runs the same scenarios for each framework, each against a separate server process.
macro_rules! on_axum_and_actix {
    ($($scenario:ident),* $(,)?) => {
        mod axum {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(&mut super::Example::start("axum_watch", super::HOLD).await).await;
            })*
        }
        mod actix {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(&mut super::Example::start("actix_watch", super::HOLD).await).await;
            })*
        }
    };
}

on_axum_and_actix! {
    blocked_route_is_printed_while_it_blocks,
    slow_route_delays_the_others_and_is_printed,
    route_that_blocks_when_the_server_stops_is_printed_and_answers,
}

fn get(example: &Example, path: &str) -> JoinHandle<String> {
    let request = web_client().get(example.url(path));
    tokio::spawn(async move {
        let answer = request.send().await.expect("the server responds");
        answer.text().await.expect("the body is text")
    })
}

/// Returns the printed lines without repeated reports, each reduced to its kind.
fn kinds(example: &Example, route: &str) -> Vec<String> {
    let kind = |line: String| match line {
        line if line.contains(&format!("by `{route}`")) => "blocked".to_owned(),
        line if line.contains("recovered after") => "recovered".to_owned(),
        line => line,
    };
    let mut kinds: Vec<_> = example.texts().into_iter().map(kind).collect();
    kinds.dedup();
    kinds
}

async fn blocked_route_is_printed_while_it_blocks(example: &mut Example) {
    let both = [get(example, "/ping"), get(example, "/ping")];
    for answer in both {
        assert_eq!(answer.await.expect("the task does not panic"), "pong\n");
    }
    example.wait_for("Goodbye").await;
    let printed = kinds(example, "GET /ping");
    let printed: Vec<_> = printed.iter().map(String::as_str).filter(|line| *line != "recovered").collect();
    assert_eq!(printed, ["Hello", "blocked", "Goodbye", "Hello", "blocked", "Goodbye"], "{:?}", example.texts());
    let lines = example.lines();
    let report = lines.iter().find(|line| line.text.contains("`GET /ping`")).expect("the test has seen it above");
    let goodbye = lines.iter().find(|line| line.text == "Goodbye").expect("the test has seen it above");
    assert!(goodbye.at - report.at >= example.hold, "the report is printed long before the end: {lines:?}");
    assert!(report.text.contains("worker 0 (") && report.text.contains("run_blocking"), "{}", report.text);
}

async fn slow_route_delays_the_others_and_is_printed(example: &mut Example) {
    let slow = get(example, "/slow");
    example.wait_for("by `GET /slow`").await;
    let other = get(example, "/");
    assert_eq!(slow.await.expect("the task does not panic"), "slow\n");
    assert_eq!(other.await.expect("the task does not panic"), "hello\n");
    example.wait_for("recovered after").await;
    assert!(!example.printed().contains("`GET /`"), "{}", example.printed());
}

async fn route_that_blocks_when_the_server_stops_is_printed_and_answers(example: &mut Example) {
    let mut client = RawClient::send(example.address, "GET /ping HTTP/1.1\r\nhost: test\r\n\r\n").await;
    example.wait_for("Hello").await;
    example.signal(Signal::TERM);
    example.wait_for("by `GET /ping`").await;
    client.read_until("pong").await;
    assert_eq!(example.exit_code().await, Some(0), "{}", example.printed());
    assert!(example.printed().contains("Goodbye"), "{}", example.printed());
}
