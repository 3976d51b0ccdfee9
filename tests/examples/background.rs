//! The examples about background services, run like a user runs them: real sockets, real signals, a real Redis.

#![cfg(unix)]

use std::time::{Duration, Instant};

use redis::{Connection, TypedCommands};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use support::client::{eventually, web_client};
use support::process::Example;
use support::redis::RedisServer;

const START: &str = "Start background service";
const RUN: &str = "Run background service...";
const CLEAN_UP: &str = "Clean up background service";

const SHORT: Duration = Duration::from_millis(400);
/// Long enough to observe what happens in the meantime, even on a busy machine.
const LONG: Duration = Duration::from_secs(4);
/// Longer than any test waits.
const ENDLESS: Duration = Duration::from_secs(120);

/// Runs the same scenarios for each framework, each against a separate server process.
macro_rules! on_axum_and_actix {
    ($($scenario:ident),* $(,)?) => {
        mod axum {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario("axum_background_service").await;
            })*
        }
        mod actix {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario("actix_background_service").await;
            })*
        }
    };
}

on_axum_and_actix! {
    service_runs_from_before_the_first_request_until_sigterm,
    service_runs_from_before_the_first_request_until_sigint,
    service_that_sleeps_stops_at_once,
    running_request_is_answered_before_services_stop,
    second_sigterm_ends_the_process_at_once,
    second_sigint_ends_the_process_at_once,
    panicked_service_is_restarted_after_a_backoff,
    service_that_panics_too_often_ends_the_server,
    service_that_fails_to_start_keeps_the_server_from_listening,
}

#[tokio::test]
async fn periodic_calls_do_not_overlap_and_a_failed_call_does_not_end_them() {
    let mut example = Example::start("axum_periodic", SHORT).await;
    let posted = web_client().post(example.url("/fail")).send().await.expect("the server responds");
    assert!(posted.status().is_success());
    example.wait_for_lines(8).await;

    let ticks = example.json("/").await;
    assert_eq!((&ticks["failures"], &ticks["consecutive_failures"]), (&json!(1), &json!(0)), "{ticks:#}");
    assert!(ticks["skipped"].as_u64() > Some(0), "a call takes longer than the interval: {ticks:#}");

    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
    // The first call begins before the server listens.
    let before = example.before.iter().map(|line| line.text.clone()).filter(|line| line.starts_with("sweep"));
    let lines: Vec<String> = before.chain(example.texts()).collect();
    for (index, line) in lines.iter().enumerate() {
        let expected = format!("sweep {} {}", index / 2 + 1, if index % 2 == 0 { "begins" } else { "ends" });
        assert_eq!(*line, expected, "in {lines:?}");
    }
    assert_eq!(lines.len() % 2, 0, "the call in progress ran to its end: {lines:?}");
}

#[tokio::test]
async fn triggered_periodic_call_runs_off_schedule() {
    // The first call takes longer than the test, so the triggered call has to wait.
    let example = Example::start("axum_periodic", ENDLESS).await;
    let asked = web_client().post(example.url("/now")).send().await.expect("the server responds");
    assert!(asked.json::<bool>().await.expect("the body is JSON"));
    let ticks = example.json("/").await;
    assert_eq!(ticks["runs"], json!(1), "{ticks:#}");
}

async fn service_runs_from_before_the_first_request_until_sigterm(name: &str) {
    service_runs_until(Signal::TERM, name).await;
}

async fn service_runs_from_before_the_first_request_until_sigint(name: &str) {
    service_runs_until(Signal::INT, name).await;
}

async fn service_runs_until(signal: Signal, name: &str) {
    let mut example = Example::start(name, SHORT).await;
    assert_eq!(example.before[0].text, START, "printed before the server accepts connections");

    let hello = json!({ "value": "hello world [false] [heartbeat]" });
    assert_eq!(example.json("/").await, hello);
    let posted = web_client().post(example.url("/")).send().await.expect("the server responds");
    assert_eq!(posted.json::<Value>().await.expect("the body is JSON"), hello);
    let status = example.json("/status").await;
    assert_eq!((&status["phase"], &status["is_ready"]), (&json!("running"), &json!(true)), "{status:#}");
    example.wait_for_lines(3).await;

    example.signal(signal);
    assert_eq!(example.exit_code().await, Some(0));
    let printed = example.texts();
    let (last, before) = printed.split_last().expect("three lines were printed");
    assert_eq!(last, CLEAN_UP);
    assert!(before.iter().all(|line| line == RUN), "{printed:?}");
}

async fn service_that_sleeps_stops_at_once(name: &str) {
    let mut example = Example::start(name, ENDLESS).await;
    example.signal(Signal::TERM);
    // Otherwise it would be cut off after its `stop_timeout`, with a different exit code.
    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(example.texts(), [CLEAN_UP]);
}

async fn running_request_is_answered_before_services_stop(name: &str) {
    let mut example = Example::start(name, LONG).await;
    let slow = ask_slowly(&example).await;

    example.signal(Signal::TERM);
    eventually("new connections are refused", || example.refuses()).await;
    assert!(!example.texts().iter().any(|line| line == CLEAN_UP), "the request still needs its services");
    assert_eq!(slow.await.expect("the task does not panic").expect("the request is answered"), 200);

    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(example.texts().last().map(String::as_str), Some(CLEAN_UP));
}

async fn second_sigterm_ends_the_process_at_once(name: &str) {
    second_signal_ends_the_process_at_once(Signal::TERM, 128 + 15, name).await;
}

async fn second_sigint_ends_the_process_at_once(name: &str) {
    second_signal_ends_the_process_at_once(Signal::INT, 128 + 2, name).await;
}

async fn second_signal_ends_the_process_at_once(signal: Signal, exit_code: i32, name: &str) {
    let mut example = Example::start(name, ENDLESS).await;
    let slow = ask_slowly(&example).await;

    example.signal(signal);
    // Two signals at the same time would be merged into one.
    eventually("the first signal has arrived", || example.refuses()).await;
    example.signal(signal);
    assert_eq!(example.exit_code().await, Some(exit_code));
    assert!(slow.await.expect("the task does not panic").is_err(), "the request must not be answered");
}

async fn panicked_service_is_restarted_after_a_backoff(name: &str) {
    let mut example = Example::start(name, LONG).await;
    fail(&example).await;

    let is_backing_off = |status: &Value| flaky(status)["state"] == "backing_off";
    let status = example.wait_for_json("/status", "the service backs off", is_backing_off).await;
    assert_eq!((&status["phase"], &status["is_ready"]), (&json!("running"), &json!(false)), "{status:#}");
    let (flaky_now, failure) = (flaky(&status), &flaky(&status)["last_failure"]);
    assert_eq!((&flaky_now["failures"], &flaky_now["generation"]), (&json!(1), &json!(1)), "{status:#}");
    let delay = flaky_now["delay"].as_f64().expect("the delay is in seconds");
    assert!((2.0..=3.0).contains(&delay), "the delay is HOLD_MS / 2 plus at most 50 % of it: {delay}");
    assert!(failure.to_string().contains("panicked: it was asked to fail"), "{status:#}");
    assert_eq!(
        example.json("/").await["value"],
        "hello world [false] [heartbeat]",
        "the other services are unaffected"
    );

    let has_returned = |status: &Value| status["is_ready"] == true;
    let status = example.wait_for_json("/status", "the host is ready again", has_returned).await;
    assert_eq!((&flaky(&status)["state"], &flaky(&status)["generation"]), (&json!("running"), &json!(2)), "{status:#}");
    assert_eq!(flaky(&status)["restarts"], 1, "{status:#}");

    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
}

async fn service_that_panics_too_often_ends_the_server(name: &str) {
    let mut example = Example::start(name, SHORT).await;
    for generation in 2..=3 {
        fail(&example).await;
        let has_returned = |status: &Value| flaky(status)["generation"] == generation && status["is_ready"] == true;
        example.wait_for_json("/status", "the host is ready again", has_returned).await;
    }
    fail(&example).await;
    assert_eq!(example.exit_code().await, Some(1));
    assert_eq!(example.texts().last().map(String::as_str), Some(CLEAN_UP), "the other services are stopped in order");
}

async fn service_that_fails_to_start_keeps_the_server_from_listening(name: &str) {
    let mut example = Example::launch(name, SHORT, &[("FAIL_START", "required by the test")]);
    assert_eq!(example.exit_code().await, Some(1));
    assert_eq!(example.texts(), [START, CLEAN_UP], "started services are stopped again, and there is no server");
}

#[tokio::test]
async fn blocking_callbacks_do_not_delay_http_and_a_stop_interrupts_none() {
    let server = RedisServer::start();
    let mut redis = server.connect();
    let hold = Duration::from_secs(2);
    let mut example = Example::start_with("axum_pubsub", hold, &[("REDIS_URL", &server.url)]).await;
    let idle = median_of_twenty(&example).await;

    let orders: Vec<String> = ["quick", "blocking"].repeat(5).iter().map(|work| publish(&mut redis, work)).collect();
    wait_for_line(&example, &format!("begin {} blocking", orders[1])).await;
    let busy = median_of_twenty(&example).await;
    let printed = example.printed();
    assert!(!printed.contains(&format!("end {} blocking", orders[1])), "twenty responses while one callback blocks");
    assert!(busy <= idle * 5 + Duration::from_millis(50), "{busy:?} instead of {idle:?}");
    assert_eq!(example.stats().await, json!({ "handled": 1, "acked": 1, "in_flight": 1 }));

    wait_for_line(&example, &format!("begin {} blocking", orders[3])).await;
    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
    let first = orders_with(&example, "end");
    assert_eq!(orders_with(&example, "begin"), first, "no callback was interrupted");
    assert_eq!(first, orders[..4], "the service ended after the callback in progress");
    assert_eq!(
        group_state(&mut redis),
        (0, first[3].clone(), Some(6)),
        "all orders whose callback began are acknowledged, and no other order was taken"
    );

    let mut example = Example::start_with("axum_pubsub", hold, &[("REDIS_URL", &server.url)]).await;
    example.wait_for_stats("the other orders are handled", |stats| stats["acked"] == 6).await;
    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(orders_with(&example, "end"), orders[4..], "each order is handled once");
    assert_eq!(group_state(&mut redis), (0, orders[9].clone(), Some(0)));
}

#[tokio::test]
async fn callback_interrupted_by_a_kill_is_called_again() {
    let server = RedisServer::start();
    let mut redis = server.connect();
    let mut example = Example::start_with("axum_pubsub", ENDLESS, &[("REDIS_URL", &server.url)]).await;
    let order = publish(&mut redis, "blocking");
    wait_for_line(&example, &format!("begin {order} blocking")).await;
    example.signal(Signal::KILL);
    assert_eq!(example.exit_code().await, None);
    assert_eq!(group_state(&mut redis), (1, order.clone(), Some(0)), "the order is taken, but not acknowledged");

    let mut example = Example::start_with("axum_pubsub", SHORT, &[("REDIS_URL", &server.url)]).await;
    let next = publish(&mut redis, "quick");
    example.wait_for_stats("both orders are handled", |stats| stats["acked"] == 2).await;
    assert_eq!(orders_with(&example, "end"), [order, next.clone()]);
    assert_eq!(group_state(&mut redis), (0, next, Some(0)));
    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
}

/// Sends a request that takes as long as `HOLD_MS`, and waits until it runs.
async fn ask_slowly(example: &Example) -> JoinHandle<reqwest::Result<u16>> {
    let client = reqwest::Client::builder().no_proxy().build().expect("the client has no missing dependencies");
    let request = client.get(example.url("/slow")).send();
    let slow = tokio::spawn(async move { Ok(request.await?.status().as_u16()) });
    // The server does not report that the request runs. After twenty later requests, on any thread, it does.
    for _ in 0..20 {
        example.json("/").await;
    }
    assert!(!slow.is_finished(), "the request is slow");
    slow
}

async fn fail(example: &Example) {
    let answer = web_client().post(example.url("/fail")).send().await.expect("the server responds");
    assert_eq!(answer.status(), 200);
}

fn flaky(status: &Value) -> &Value {
    let services = status["services"].as_array().expect("services are a list");
    services.iter().find(|service| service["name"] == "flaky").expect("the list contains the service")
}

async fn wait_for_line(example: &Example, line: &str) {
    eventually(&format!("{line} is printed"), || example.texts().iter().any(|text| text == line)).await;
}

async fn median_of_twenty(example: &Example) -> Duration {
    let mut took = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        let answer = web_client().get(example.url("/")).send().await.expect("the server responds");
        assert_eq!(answer.text().await.expect("the body is text"), "hello world");
        took.push(asked.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

/// Adds an order to the stream and returns its ID.
fn publish(redis: &mut Connection, work: &str) -> String {
    redis.xadd("orders", "*", &[("work", work)]).expect("Redis accepts the order").expect("the order has an ID")
}

/// Returns the orders whose callback has printed `event`.
fn orders_with(example: &Example, event: &str) -> Vec<String> {
    // Services already run before the server listens.
    let lines = example.before.iter().cloned().chain(example.lines());
    lines.filter_map(|line| Some(line.text.strip_prefix(event)?.split_whitespace().next()?.to_owned())).collect()
}

/// Returns the number of orders taken but not acknowledged, the last order taken, and the number of orders not yet
/// taken.
fn group_state(redis: &mut Connection) -> (usize, String, Option<usize>) {
    let pending = redis.xpending("orders", "app").expect("the group exists").count();
    let groups = redis.xinfo_groups("orders").expect("the stream exists").groups;
    let [group] = <[_; 1]>::try_from(groups).expect("exactly one group exists");
    (pending, group.last_delivered_id, group.lag)
}
