//! The examples about services beside the server, run as a user runs them: real sockets, real signals, a real Redis.

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
/// Long enough to see what happens meanwhile on a machine that is busy.
const LONG: Duration = Duration::from_secs(4);
/// Longer than any test waits.
const ENDLESS: Duration = Duration::from_secs(120);

/// The same scenarios for each framework, each against a server process of its own.
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
    service_that_waits_for_its_next_turn_stops_at_once,
    request_that_runs_is_answered_before_services_stop,
    second_sigterm_waits_for_nothing,
    second_sigint_waits_for_nothing,
    service_that_panics_is_restarted_after_a_while,
    service_that_panics_too_often_ends_the_server,
    service_that_does_not_start_keeps_the_server_from_listening,
}

#[tokio::test]
async fn periodic_calls_do_not_overlap_and_one_that_fails_does_not_end_them() {
    let mut example = Example::start("axum_periodic", SHORT).await;
    let posted = web_client().post(example.url("/fail")).send().await.expect("it answers");
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
        let expected = if index % 2 == 0 { "sweep begins" } else { "sweep ends" };
        assert_eq!(line, expected, "in {lines:?}");
    }
    assert_eq!(lines.len() % 2, 0, "what ran came to its end: {lines:?}");
}

#[tokio::test]
async fn periodic_call_comes_out_of_turn_when_it_is_asked_for() {
    // The first call goes on for longer than the test. So the one that is asked for has to wait.
    let example = Example::start("axum_periodic", ENDLESS).await;
    let asked = web_client().post(example.url("/now")).send().await.expect("it answers");
    assert!(asked.json::<bool>().await.expect("it is JSON"));
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
    assert_eq!(example.before[0].text, START, "before the server accepts");

    let hello = json!({ "value": "hello world [false] [heartbeat]" });
    assert_eq!(example.json("/").await, hello);
    let posted = web_client().post(example.url("/")).send().await.expect("it answers");
    assert_eq!(posted.json::<Value>().await.expect("it is JSON"), hello);
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

async fn service_that_waits_for_its_next_turn_stops_at_once(name: &str) {
    let mut example = Example::start(name, ENDLESS).await;
    example.signal(Signal::TERM);
    // It would be cut off otherwise, after its `stop_timeout`, and the exit code would tell.
    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(example.texts(), [CLEAN_UP]);
}

async fn request_that_runs_is_answered_before_services_stop(name: &str) {
    let mut example = Example::start(name, LONG).await;
    let slow = ask_slowly(&example).await;

    example.signal(Signal::TERM);
    eventually("nobody is let in any more", || example.refuses()).await;
    assert!(!example.texts().iter().any(|line| line == CLEAN_UP), "the request still needs its services");
    assert_eq!(slow.await.expect("no panic").expect("it is answered"), 200);

    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(example.texts().last().map(String::as_str), Some(CLEAN_UP));
}

async fn second_sigterm_waits_for_nothing(name: &str) {
    second_signal_waits_for_nothing(Signal::TERM, 128 + 15, name).await;
}

async fn second_sigint_waits_for_nothing(name: &str) {
    second_signal_waits_for_nothing(Signal::INT, 128 + 2, name).await;
}

async fn second_signal_waits_for_nothing(signal: Signal, exit_code: i32, name: &str) {
    let mut example = Example::start(name, ENDLESS).await;
    let slow = ask_slowly(&example).await;

    example.signal(signal);
    // Two that come together would be one.
    eventually("the first signal has arrived", || example.refuses()).await;
    example.signal(signal);
    assert_eq!(example.exit_code().await, Some(exit_code));
    assert!(slow.await.expect("no panic").is_err(), "a request was not waited for, and yet answered");
}

async fn service_that_panics_is_restarted_after_a_while(name: &str) {
    let mut example = Example::start(name, LONG).await;
    fail(&example).await;

    let is_backing_off = |status: &Value| flaky(status)["state"] == "backing_off";
    let status = example.wait_for_json("/status", "it backs off", is_backing_off).await;
    assert_eq!((&status["phase"], &status["is_ready"]), (&json!("running"), &json!(false)), "{status:#}");
    let (flaky_now, failure) = (flaky(&status), &flaky(&status)["last_failure"]);
    assert_eq!((&flaky_now["failures"], &flaky_now["generation"]), (&json!(1), &json!(1)), "{status:#}");
    let delay = flaky_now["delay"].as_f64().expect("it is a number of seconds");
    assert!((2.0..=3.0).contains(&delay), "half of HOLD_MS, and half as much again at most: {delay}");
    assert!(failure.to_string().contains("panicked: it was asked to fail"), "{status:#}");
    assert_eq!(example.json("/").await["value"], "hello world [false] [heartbeat]", "the others are unaffected");

    let has_returned = |status: &Value| status["is_ready"] == true;
    let status = example.wait_for_json("/status", "it is ready again", has_returned).await;
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
        example.wait_for_json("/status", "it is ready again", has_returned).await;
    }
    fail(&example).await;
    assert_eq!(example.exit_code().await, Some(1));
    assert_eq!(example.texts().last().map(String::as_str), Some(CLEAN_UP), "the others are stopped in good order");
}

async fn service_that_does_not_start_keeps_the_server_from_listening(name: &str) {
    let mut example = Example::launch(name, SHORT, &[("FAIL_START", "the test wants it so")]);
    assert_eq!(example.exit_code().await, Some(1));
    assert_eq!(example.texts(), [START, CLEAN_UP], "what had started is stopped again, and there is no server");
}

#[tokio::test]
async fn callbacks_that_block_leave_http_alone_and_a_stop_cuts_none_in_half() {
    let server = RedisServer::start();
    let mut redis = server.connect();
    let hold = Duration::from_secs(2);
    let mut example = Example::start_with("axum_pubsub", hold, &[("REDIS_URL", &server.url)]).await;
    let idle = median_of_twenty(&example).await;

    let orders: Vec<String> = ["quick", "blocking"].repeat(5).iter().map(|work| publish(&mut redis, work)).collect();
    wait_for_line(&example, &format!("begin {} blocking", orders[1])).await;
    let busy = median_of_twenty(&example).await;
    let printed = example.printed();
    assert!(!printed.contains(&format!("end {} blocking", orders[1])), "twenty answers while one callback blocks");
    assert!(busy <= idle * 5 + Duration::from_millis(50), "{busy:?} instead of {idle:?}");
    assert_eq!(example.stats().await, json!({ "handled": 1, "acked": 1, "in_flight": 1 }));

    wait_for_line(&example, &format!("begin {} blocking", orders[3])).await;
    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
    let first = orders_that(&example, "end");
    assert_eq!(orders_that(&example, "begin"), first, "none was cut in half");
    assert_eq!(first, orders[..4], "it ended with the callback at hand");
    assert_eq!(
        standing(&mut redis),
        (0, first[3].clone(), Some(6)),
        "all that began are acknowledged, no other was taken"
    );

    let mut example = Example::start_with("axum_pubsub", hold, &[("REDIS_URL", &server.url)]).await;
    example.wait_for_stats("the rest is handled", |stats| stats["acked"] == 6).await;
    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(orders_that(&example, "end"), orders[4..], "each once");
    assert_eq!(standing(&mut redis), (0, orders[9].clone(), Some(0)));
}

#[tokio::test]
async fn callback_that_a_kill_cut_in_half_is_called_again() {
    let server = RedisServer::start();
    let mut redis = server.connect();
    let mut example = Example::start_with("axum_pubsub", ENDLESS, &[("REDIS_URL", &server.url)]).await;
    let order = publish(&mut redis, "blocking");
    wait_for_line(&example, &format!("begin {order} blocking")).await;
    example.signal(Signal::KILL);
    assert_eq!(example.exit_code().await, None);
    assert_eq!(standing(&mut redis), (1, order.clone(), Some(0)), "taken, and not acknowledged");

    let mut example = Example::start_with("axum_pubsub", SHORT, &[("REDIS_URL", &server.url)]).await;
    let next = publish(&mut redis, "quick");
    example.wait_for_stats("both are handled", |stats| stats["acked"] == 2).await;
    assert_eq!(orders_that(&example, "end"), [order, next.clone()]);
    assert_eq!(standing(&mut redis), (0, next, Some(0)));
    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
}

/// Sends a request that takes as long as the example holds, and waits until it runs.
async fn ask_slowly(example: &Example) -> JoinHandle<reqwest::Result<u16>> {
    let client = reqwest::Client::builder().no_proxy().build().expect("the client needs nothing that may be missing");
    let request = client.get(example.url("/slow")).send();
    let slow = tokio::spawn(async move { Ok(request.await?.status().as_u16()) });
    // It is not seen to run. So many others that come after it, on whatever thread, and have run, say so.
    for _ in 0..20 {
        example.json("/").await;
    }
    assert!(!slow.is_finished(), "it is slow");
    slow
}

async fn fail(example: &Example) {
    let answer = web_client().post(example.url("/fail")).send().await.expect("it answers");
    assert_eq!(answer.status(), 200);
}

fn flaky(status: &Value) -> &Value {
    let services = status["services"].as_array().expect("it is a list");
    services.iter().find(|service| service["name"] == "flaky").expect("it is one of them")
}

async fn wait_for_line(example: &Example, line: &str) {
    eventually(&format!("{line} is printed"), || example.texts().iter().any(|text| text == line)).await;
}

async fn median_of_twenty(example: &Example) -> Duration {
    let mut took = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        let answer = web_client().get(example.url("/")).send().await.expect("it answers");
        assert_eq!(answer.text().await.expect("it is text"), "hello world");
        took.push(asked.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

/// Its id.
fn publish(redis: &mut Connection, work: &str) -> String {
    redis.xadd("orders", "*", &[("work", work)]).expect("it takes it").expect("it has an id")
}

/// Those whose callback has begun or ended, as the example has printed it.
fn orders_that(example: &Example, have: &str) -> Vec<String> {
    // Services run before the server listens.
    let lines = example.before.iter().cloned().chain(example.lines());
    lines.filter_map(|line| Some(line.text.strip_prefix(have)?.split_whitespace().next()?.to_owned())).collect()
}

/// How many were taken and not acknowledged, which was taken last, and how many were not taken yet.
fn standing(redis: &mut Connection) -> (usize, String, Option<usize>) {
    let pending = redis.xpending("orders", "app").expect("the group is there").count();
    let groups = redis.xinfo_groups("orders").expect("the stream is there").groups;
    let [group] = <[_; 1]>::try_from(groups).expect("there is one group");
    (pending, group.last_delivered_id, group.lag)
}
