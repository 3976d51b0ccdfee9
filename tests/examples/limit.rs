//! The examples about one request at a time, run like a user runs them, with requests over real sockets.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

/// How much longer than its waits a total may take, on a busy machine.
const SLACK: Duration = Duration::from_millis(1500);
const HOLD: Duration = Duration::from_millis(400);
/// For events that have to happen "at once": long compared to one request, even on a busy machine.
const LONG_HOLD: Duration = Duration::from_millis(1500);

/// Runs the same scenarios for each framework, each against a separate server process.
macro_rules! on_axum_and_actix {
    ($($scenario:ident($hold:ident)),* $(,)?) => {
        mod axum {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(&super::Example::start("axum_limit", super::$hold).await).await;
            })*
        }
        mod actix {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(&super::Example::start("actix_limit", super::$hold).await).await;
            })*
        }
    };
}

on_axum_and_actix! {
    guarded_handler_serves_two_requests_one_after_the_other(LONG_HOLD),
    guarded_section_overlaps_only_outside_of_the_guard(LONG_HOLD),
    unguarded_handler_serves_two_requests_at_once(LONG_HOLD),
    exclusive_handler_refuses_the_second_request_at_once(LONG_HOLD),
    guarded_handler_finishes_after_its_client_closed_the_connection(HOLD),
    guarded_handler_finishes_after_its_client_reset_the_connection(HOLD),
    queued_request_never_runs_after_its_client_closed_the_connection(HOLD),
    queued_request_never_runs_after_its_client_reset_the_connection(HOLD),
    queued_request_with_a_body_never_runs_after_its_client_disconnected(HOLD),
    queued_request_with_a_withheld_body_never_runs_after_its_client_disconnected(HOLD),
    queued_pipelined_requests_never_run_after_their_client_disconnected(HOLD),
}

async fn guarded_handler_serves_two_requests_one_after_the_other(example: &Example) {
    let (answers, took) = post_two_at_once(example, "/limit").await;
    assert_eq!(answers, [r#"{"counter":1}"#, r#"{"counter":2}"#]);
    assert_eq!(example.printed(), "Hello bye Hello bye");
    assert_takes(took, 4, example.hold);

    let limit = wait_until_idle(example).await;
    assert_eq!((number(&limit, "granted"), number(&limit, "queued")), (2, 1), "{limit:#}");
    assert_nothing_else_was_counted(&limit, &[]);
}

async fn guarded_section_overlaps_only_outside_of_the_guard(example: &Example) {
    let (answers, took) = post_two_at_once(example, "/limit-section").await;
    // The first request responds only after the second one has incremented the counter.
    assert_eq!(answers, [r#"{"counter":2}"#, r#"{"counter":2}"#]);
    assert_eq!(example.printed(), "Hello bye Hello bye");
    assert_takes(took, 3, example.hold);

    let section = &example.stats().await[1];
    assert_eq!((&section["name"], &section["held"]), (&json!("limit-section"), &json!(0)));
    assert_eq!((number(section, "granted"), number(section, "queued")), (2, 1), "{section:#}");
    assert_nothing_else_was_counted(section, &[]);
}

async fn unguarded_handler_serves_two_requests_at_once(example: &Example) {
    let (answers, took) = post_two_at_once(example, "/nolimit").await;
    assert_eq!(answers, [r#"{"counter":2}"#, r#"{"counter":2}"#]);
    assert_eq!(example.printed(), "Hello Hello bye bye");
    assert_takes(took, 2, example.hold);
}

async fn exclusive_handler_refuses_the_second_request_at_once(example: &Example) {
    let first = post(example, "/exclusive");
    example.wait_for_lines(1).await;

    let asked = Instant::now();
    let refused = web_client().post(example.url("/exclusive")).send().await.expect("the server responds");
    assert!(asked.elapsed() < example.hold / 2, "refused after {:?}", asked.elapsed());
    assert_eq!(example.printed(), "Hello", "refused while the first request still runs");

    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let retry_after = refused.headers()["retry-after"].to_str().expect("the header is ASCII");
    assert!(retry_after.parse::<u64>().is_ok_and(|seconds| seconds >= 1), "Retry-After: {retry_after}");
    let problem: Value = refused.json().await.expect("a problem is JSON");
    let members: Vec<_> = problem.as_object().expect("a problem is an object").keys().map(String::as_str).collect();
    assert_eq!(members, ["detail", "status", "title", "type"]);
    assert_eq!(
        (&problem["type"], &problem["status"]),
        (&json!("https://docs.rs/onelane/latest/onelane/web/index.html#busy"), &json!(503))
    );
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem:#}");

    assert_eq!(first.await.expect("the task does not panic"), (200, r#"{"counter":1}"#.into()));
    assert_eq!(
        post(example, "/exclusive").await.expect("the task does not panic"),
        (200, r#"{"counter":2}"#.into()),
        "the guard is free again"
    );
    assert_eq!(example.printed(), "Hello bye Hello bye");

    let exclusive = &example.stats().await[2];
    assert_eq!((number(exclusive, "granted"), number(exclusive, "refused")), (2, 1), "{exclusive:#}");
    assert_nothing_else_was_counted(exclusive, &["refused"]);
}

async fn guarded_handler_finishes_after_its_client_closed_the_connection(example: &Example) {
    client_disconnects_while_its_handler_runs(example, Disconnect::Fin).await;
}

async fn guarded_handler_finishes_after_its_client_reset_the_connection(example: &Example) {
    client_disconnects_while_its_handler_runs(example, Disconnect::Rst).await;
}

async fn client_disconnects_while_its_handler_runs(example: &Example, leave: Disconnect) {
    let client = RawClient::send(example.address, request("/limit", "")).await;
    example.wait_for_lines(1).await;
    let next = post(example, "/limit");
    wait_for_waiting(example, 1).await;

    client.disconnect(leave).await;
    let saw_disconnect = |stats: &Value| number(&stats[0], "detached") + number(&stats[0], "finished_detached") == 1;
    example.wait_for_stats("the server notices that the client has disconnected", saw_disconnect).await;

    assert_eq!(next.await.expect("the task does not panic"), (200, r#"{"counter":2}"#.into()));
    assert_eq!(example.printed(), "Hello bye Hello bye");
    // The first handler ran to its end, also after its bye. Lines are read a little late, so the bound has some
    // tolerance.
    let lines = example.lines();
    let apart = lines[2].at.duration_since(lines[0].at);
    assert!(apart > 2 * example.hold - example.hold / 4, "the next handler started after {apart:?}");

    let limit = wait_until_idle(example).await;
    assert_eq!((number(&limit, "granted"), number(&limit, "finished_detached")), (2, 1), "{limit:#}");
    assert_nothing_else_was_counted(&limit, &["finished_detached"]);
}

async fn queued_request_never_runs_after_its_client_closed_the_connection(example: &Example) {
    queued_client_disconnects(example, request("/limit", ""), Disconnect::Fin).await;
}

async fn queued_request_never_runs_after_its_client_reset_the_connection(example: &Example) {
    queued_client_disconnects(example, request("/limit", ""), Disconnect::Rst).await;
}

async fn queued_request_with_a_body_never_runs_after_its_client_disconnected(example: &Example) {
    let body = "x".repeat(64 * 1024);
    queued_client_disconnects(example, request("/limit", &body), Disconnect::Fin).await;
}

/// The body may still arrive, so the server cannot conclude from an unread end that the client has disconnected.
async fn queued_request_with_a_withheld_body_never_runs_after_its_client_disconnected(example: &Example) {
    let head = "POST /limit HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 65536\r\n\r\n";
    queued_client_disconnects(example, head.into(), Disconnect::Fin).await;
}

/// The first request is queued, and the second one waits behind it on the connection. Neither runs after the
/// disconnect.
async fn queued_pipelined_requests_never_run_after_their_client_disconnected(example: &Example) {
    queued_client_disconnects(example, request("/limit", "").repeat(2), Disconnect::Fin).await;
}

/// One request runs, the client that sends `bytes` waits, and another request waits behind it. The client disconnects.
async fn queued_client_disconnects(example: &Example, bytes: String, leave: Disconnect) {
    let holder = post(example, "/limit");
    example.wait_for_lines(1).await;
    let mut client = RawClient::send(example.address, &bytes).await;
    wait_for_waiting(example, 1).await;
    let next = post(example, "/limit");
    wait_for_waiting(example, 2).await;
    if bytes.contains("100-continue") {
        // The server asks for the body, and the client does not send it.
        client.read_until("100 Continue\r\n\r\n").await;
    }

    client.disconnect(leave).await;
    let left = |stats: &Value| number(&stats[0], "waiting") == 1 && number(&stats[0], "cancelled") >= 1;
    let stats = example.wait_for_stats("the request leaves the queue", left).await;
    assert_eq!(number(&stats[0], "granted"), 1, "it left the queue while the first request held the guard: {stats:#}");

    assert_eq!(holder.await.expect("the task does not panic"), (200, r#"{"counter":1}"#.into()));
    assert_eq!(next.await.expect("the task does not panic"), (200, r#"{"counter":2}"#.into()));
    assert_eq!(example.printed(), "Hello bye Hello bye");
    let lines = example.lines();
    let after_bye = lines[2].at.duration_since(lines[1].at);
    assert!(after_bye < example.hold + SLACK, "the next request waited {after_bye:?}");

    // Another request finds the guard free, and a counter that the disconnected client's request did not increment.
    assert_eq!(post(example, "/limit").await.expect("the task does not panic"), (200, r#"{"counter":3}"#.into()));
    let limit = wait_until_idle(example).await;
    let (queued, cancelled) = (number(&limit, "queued"), number(&limit, "cancelled"));
    assert_eq!((number(&limit, "granted"), queued - cancelled), (3, 1), "{limit:#}");
    assert_nothing_else_was_counted(&limit, &["cancelled"]);
}

#[tokio::test]
async fn async_blocking_and_thread_callers_run_one_at_a_time_in_order_of_arrival_in_axum() {
    async_blocking_and_thread_callers_run_one_at_a_time(&Example::start("axum_threads", HOLD / 2).await).await;
}

#[tokio::test]
async fn async_blocking_and_thread_callers_run_one_at_a_time_in_order_of_arrival_in_actix() {
    async_blocking_and_thread_callers_run_one_at_a_time(&Example::start("actix_threads", HOLD / 2).await).await;
}

async fn async_blocking_and_thread_callers_run_one_at_a_time(example: &Example) {
    let rounds = [
        ["async", "blocking", "thread", "async", "thread", "blocking"],
        ["thread", "async", "blocking", "blocking", "thread", "async"],
        ["blocking", "thread", "thread", "async", "async", "blocking"],
    ];
    let mut arrived = 0;
    for round in rounds {
        let before = example.lines().len();
        let mut calls = Vec::new();
        for kind in round {
            calls.push(post(example, &format!("/{kind}")));
            arrived += 1;
            // The next request is sent only after this one holds the guard or is queued.
            let has_arrived = |stats: &Value| number(stats, "granted") + number(stats, "waiting") == arrived;
            example.wait_for_stats("the request has its place in the queue", has_arrived).await;
        }
        for answer in join_all(calls).await {
            assert_eq!(answer.expect("the task does not panic"), (200, "done\n".into()));
        }
        let printed: Vec<_> = example.lines().split_off(before).into_iter().map(|line| line.text).collect();
        let one_by_one: Vec<_> =
            round.iter().flat_map(|kind| [format!("Hello {kind}"), format!("bye {kind}")]).collect();
        assert_eq!(printed, one_by_one);
    }
    let stats = example.wait_for_stats("the last permit is back", |stats| number(stats, "held") == 0).await;
    assert_eq!((number(&stats, "granted"), number(&stats, "waiting")), (arrived, 0), "{stats:#}");
    assert!(number(&stats, "queued") > arrived / 2, "most of them had to wait: {stats:#}");
    assert_nothing_else_was_counted(&stats, &[]);
}

/// Sends a POST request from a spawned task. Returns status and body.
fn post(example: &Example, path: &str) -> JoinHandle<(u16, String)> {
    let url = example.url(path);
    tokio::spawn(async move {
        let response = web_client().post(url).send().await.expect("the server responds");
        (response.status().as_u16(), response.text().await.expect("the body is complete"))
    })
}

/// The answers of two requests, sorted, and the time that both took together.
async fn post_two_at_once(example: &Example, path: &str) -> ([String; 2], Duration) {
    let start = Instant::now();
    let (one, other) = (post(example, path), post(example, path));
    let answers = [one.await.expect("the task does not panic"), other.await.expect("the task does not panic")];
    let took = start.elapsed();
    let mut texts = answers.map(|(status, text)| {
        assert_eq!(status, 200, "{text}");
        text
    });
    texts.sort();
    (texts, took)
}

/// Returns a request as it is sent on the wire.
fn request(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The tolerance is less than one hold, so the three possible totals differ.
fn assert_takes(took: Duration, holds: u32, hold: Duration) {
    let expected = holds * hold;
    assert!((expected..expected + hold).contains(&took), "took {took:?}, expected {expected:?}");
}

async fn wait_for_waiting(example: &Example, count: u64) {
    let waits = |stats: &Value| number(&stats[0], "waiting") == count;
    example.wait_for_stats(&format!("{count} requests wait at the guard"), waits).await;
}

/// Waits until the guard of `/limit` has no holder and no waiter. Returns its statistics.
async fn wait_until_idle(example: &Example) -> Value {
    let idle = |stats: &Value| ["held", "waiting", "detached"].iter().all(|field| number(&stats[0], field) == 0);
    example.wait_for_stats("the guard is idle", idle).await[0].take()
}

fn number(stats: &Value, field: &str) -> u64 {
    stats[field].as_u64().unwrap_or_else(|| panic!("{field} is not a number in {stats:#}"))
}

/// Asserts that the counters of exceptional outcomes are 0, except for `expected`.
fn assert_nothing_else_was_counted(stats: &Value, expected: &[&str]) {
    for field in ["refused", "timed_out", "cancelled", "expired", "panicked", "finished_detached", "overrun"] {
        assert!(number(stats, field) == 0 || expected.contains(&field), "{field} in {stats:#}");
    }
}
