//! The examples about one caller at a time, run as a user runs them, and asked over real sockets.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

/// What a total may take beyond the waits in it, on a machine that has other things to do.
const SLACK: Duration = Duration::from_millis(1500);
const HOLD: Duration = Duration::from_millis(400);
/// Where something has to happen "at once": a wait that is long beside what a busy machine takes for one request.
const LONG_HOLD: Duration = Duration::from_millis(1500);

/// The same scenarios for each framework, each against a server process of its own.
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
    guarded_handler_serves_two_one_after_the_other(LONG_HOLD),
    guarded_section_overlaps_only_outside_of_it(LONG_HOLD),
    unguarded_handler_serves_two_at_once(LONG_HOLD),
    exclusive_handler_refuses_the_second_at_once(LONG_HOLD),
    guarded_handler_finishes_after_its_client_closed(HOLD),
    guarded_handler_finishes_after_its_client_reset(HOLD),
    queued_request_never_runs_after_its_client_closed(HOLD),
    queued_request_never_runs_after_its_client_reset(HOLD),
    queued_request_with_a_body_never_runs_after_its_client_left(HOLD),
    queued_request_that_holds_its_body_back_never_runs_after_its_client_left(HOLD),
    queued_pipelined_requests_never_run_after_their_client_left(HOLD),
}

async fn guarded_handler_serves_two_one_after_the_other(example: &Example) {
    let (answers, took) = post_two_at_once(example, "/limit").await;
    assert_eq!(answers, [r#"{"counter":1}"#, r#"{"counter":2}"#]);
    assert_eq!(example.printed(), "Hello bye Hello bye");
    assert_takes(took, 4, example.hold);

    let limit = wait_until_idle(example).await;
    assert_eq!((number(&limit, "granted"), number(&limit, "queued")), (2, 1), "{limit:#}");
    assert_nothing_else_was_counted(&limit, &[]);
}

async fn guarded_section_overlaps_only_outside_of_it(example: &Example) {
    let (answers, took) = post_two_at_once(example, "/limit-section").await;
    // The first answers only after the second has counted.
    assert_eq!(answers, [r#"{"counter":2}"#, r#"{"counter":2}"#]);
    assert_eq!(example.printed(), "Hello bye Hello bye");
    assert_takes(took, 3, example.hold);

    let section = &example.stats().await[1];
    assert_eq!((&section["name"], &section["held"]), (&json!("limit-section"), &json!(0)));
    assert_eq!((number(section, "granted"), number(section, "queued")), (2, 1), "{section:#}");
    assert_nothing_else_was_counted(section, &[]);
}

async fn unguarded_handler_serves_two_at_once(example: &Example) {
    let (answers, took) = post_two_at_once(example, "/nolimit").await;
    assert_eq!(answers, [r#"{"counter":2}"#, r#"{"counter":2}"#]);
    assert_eq!(example.printed(), "Hello Hello bye bye");
    assert_takes(took, 2, example.hold);
}

async fn exclusive_handler_refuses_the_second_at_once(example: &Example) {
    let first = post(example, "/exclusive");
    example.wait_for_lines(1).await;

    let asked = Instant::now();
    let refused = web_client().post(example.url("/exclusive")).send().await.expect("it answers");
    assert!(asked.elapsed() < example.hold / 2, "refused after {:?}", asked.elapsed());
    assert_eq!(example.printed(), "Hello", "refused while the first still runs");

    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let retry_after = refused.headers()["retry-after"].to_str().expect("it is ASCII");
    assert!(retry_after.parse::<u64>().is_ok_and(|seconds| seconds >= 1), "Retry-After: {retry_after}");
    let problem: Value = refused.json().await.expect("a problem is JSON");
    let members: Vec<_> = problem.as_object().expect("a problem is an object").keys().map(String::as_str).collect();
    assert_eq!(members, ["detail", "status", "title", "type"]);
    assert_eq!((&problem["type"], &problem["status"]), (&json!("urn:onelane:busy"), &json!(503)));
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem:#}");

    assert_eq!(first.await.expect("no panic"), (200, r#"{"counter":1}"#.into()));
    assert_eq!(post(example, "/exclusive").await.expect("no panic"), (200, r#"{"counter":2}"#.into()), "free again");
    assert_eq!(example.printed(), "Hello bye Hello bye");

    let exclusive = &example.stats().await[2];
    assert_eq!((number(exclusive, "granted"), number(exclusive, "refused")), (2, 1), "{exclusive:#}");
    assert_nothing_else_was_counted(exclusive, &["refused"]);
}

async fn guarded_handler_finishes_after_its_client_closed(example: &Example) {
    client_leaves_while_its_handler_runs(example, Disconnect::Fin).await;
}

async fn guarded_handler_finishes_after_its_client_reset(example: &Example) {
    client_leaves_while_its_handler_runs(example, Disconnect::Rst).await;
}

async fn client_leaves_while_its_handler_runs(example: &Example, leave: Disconnect) {
    let leaver = RawClient::send(example.address, request("/limit", "")).await;
    example.wait_for_lines(1).await;
    let next = post(example, "/limit");
    wait_for_waiting(example, 1).await;

    leaver.disconnect(leave).await;
    let saw_it_go = |stats: &Value| number(&stats[0], "detached") + number(&stats[0], "finished_detached") == 1;
    example.wait_for_stats("the server sees that the client has left", saw_it_go).await;

    assert_eq!(next.await.expect("no panic"), (200, r#"{"counter":2}"#.into()));
    assert_eq!(example.printed(), "Hello bye Hello bye");
    // The first went on, after bye too, to its end. Lines are read a little late, so not to the millisecond.
    let lines = example.lines();
    let apart = lines[2].at.duration_since(lines[0].at);
    assert!(apart > 2 * example.hold - example.hold / 4, "the next started after {apart:?}");

    let limit = wait_until_idle(example).await;
    assert_eq!((number(&limit, "granted"), number(&limit, "finished_detached")), (2, 1), "{limit:#}");
    assert_nothing_else_was_counted(&limit, &["finished_detached"]);
}

async fn queued_request_never_runs_after_its_client_closed(example: &Example) {
    queued_client_leaves(example, request("/limit", ""), Disconnect::Fin).await;
}

async fn queued_request_never_runs_after_its_client_reset(example: &Example) {
    queued_client_leaves(example, request("/limit", ""), Disconnect::Rst).await;
}

async fn queued_request_with_a_body_never_runs_after_its_client_left(example: &Example) {
    let body = "x".repeat(64 * 1024);
    queued_client_leaves(example, request("/limit", &body), Disconnect::Fin).await;
}

/// The body may come later, so its unread end does not tell that the client has gone.
async fn queued_request_that_holds_its_body_back_never_runs_after_its_client_left(example: &Example) {
    let head = "POST /limit HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 65536\r\n\r\n";
    queued_client_leaves(example, head.into(), Disconnect::Fin).await;
}

/// The first is queued. The second waits behind it on the connection, and with the client both are gone.
async fn queued_pipelined_requests_never_run_after_their_client_left(example: &Example) {
    queued_client_leaves(example, request("/limit", "").repeat(2), Disconnect::Fin).await;
}

/// One request runs, one that sends `bytes` waits, one waits behind it. The one in the middle leaves.
async fn queued_client_leaves(example: &Example, bytes: String, leave: Disconnect) {
    let holder = post(example, "/limit");
    example.wait_for_lines(1).await;
    let mut leaver = RawClient::send(example.address, &bytes).await;
    wait_for_waiting(example, 1).await;
    let next = post(example, "/limit");
    wait_for_waiting(example, 2).await;
    if bytes.contains("100-continue") {
        // Asked for, and not sent.
        leaver.read_until("100 Continue\r\n\r\n").await;
    }

    leaver.disconnect(leave).await;
    let left = |stats: &Value| number(&stats[0], "waiting") == 1 && number(&stats[0], "cancelled") >= 1;
    let stats = example.wait_for_stats("the request leaves the queue", left).await;
    assert_eq!(number(&stats[0], "granted"), 1, "it left while the first held the guard: {stats:#}");

    assert_eq!(holder.await.expect("no panic"), (200, r#"{"counter":1}"#.into()));
    assert_eq!(next.await.expect("no panic"), (200, r#"{"counter":2}"#.into()));
    assert_eq!(example.printed(), "Hello bye Hello bye");
    let lines = example.lines();
    let after_bye = lines[2].at.duration_since(lines[1].at);
    assert!(after_bye < example.hold + SLACK, "the next had to wait {after_bye:?}");

    // One more finds the guard free, and the count that the one which left did not touch.
    assert_eq!(post(example, "/limit").await.expect("no panic"), (200, r#"{"counter":3}"#.into()));
    let limit = wait_until_idle(example).await;
    let (queued, cancelled) = (number(&limit, "queued"), number(&limit, "cancelled"));
    assert_eq!((number(&limit, "granted"), queued - cancelled), (3, 1), "{limit:#}");
    assert_nothing_else_was_counted(&limit, &["cancelled"]);
}

#[tokio::test]
async fn async_blocking_and_thread_callers_take_turns_in_order_of_arrival_in_axum() {
    async_blocking_and_thread_callers_take_turns(&Example::start("axum_threads", HOLD / 2).await).await;
}

#[tokio::test]
async fn async_blocking_and_thread_callers_take_turns_in_order_of_arrival_in_actix() {
    async_blocking_and_thread_callers_take_turns(&Example::start("actix_threads", HOLD / 2).await).await;
}

async fn async_blocking_and_thread_callers_take_turns(example: &Example) {
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
            // The next one is not sent before this one has its place.
            let has_place = |stats: &Value| number(stats, "granted") + number(stats, "waiting") == arrived;
            example.wait_for_stats("the request has its place in the queue", has_place).await;
        }
        for answer in join_all(calls).await {
            assert_eq!(answer.expect("no panic"), (200, "done\n".into()));
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

/// Posts, in a task of its own. Status and body.
fn post(example: &Example, path: &str) -> JoinHandle<(u16, String)> {
    let url = example.url(path);
    tokio::spawn(async move {
        let response = web_client().post(url).send().await.expect("it answers");
        (response.status().as_u16(), response.text().await.expect("the answer is whole"))
    })
}

/// The answers of two requests, sorted, and the time that both took together.
async fn post_two_at_once(example: &Example, path: &str) -> ([String; 2], Duration) {
    let start = Instant::now();
    let (one, other) = (post(example, path), post(example, path));
    let answers = [one.await.expect("no panic"), other.await.expect("no panic")];
    let took = start.elapsed();
    let mut texts = answers.map(|(status, text)| {
        assert_eq!(status, 200, "{text}");
        text
    });
    texts.sort();
    (texts, took)
}

/// A request as it stands on the wire.
fn request(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Less than one more hold: each of the three totals is told from the others.
fn assert_takes(took: Duration, holds: u32, hold: Duration) {
    let expected = holds * hold;
    assert!((expected..expected + hold).contains(&took), "took {took:?}, expected {expected:?}");
}

async fn wait_for_waiting(example: &Example, count: u64) {
    let waits = |stats: &Value| number(&stats[0], "waiting") == count;
    example.wait_for_stats(&format!("{count} wait at the guard"), waits).await;
}

/// The guard of `/limit`, once nothing is held and nobody waits.
async fn wait_until_idle(example: &Example) -> Value {
    let idle = |stats: &Value| ["held", "waiting", "detached"].iter().all(|field| number(&stats[0], field) == 0);
    example.wait_for_stats("the guard is idle", idle).await[0].take()
}

fn number(stats: &Value, field: &str) -> u64 {
    stats[field].as_u64().unwrap_or_else(|| panic!("{field} is no number in {stats:#}"))
}

/// All that is out of the ordinary counts 0, apart from `expected`.
fn assert_nothing_else_was_counted(stats: &Value, expected: &[&str]) {
    for field in ["refused", "timed_out", "cancelled", "expired", "panicked", "finished_detached", "overrun"] {
        assert!(number(stats, field) == 0 || expected.contains(&field), "{field} in {stats:#}");
    }
}
