//! The examples about one request at a time for each user, run like a user runs them, with requests over real sockets.

use std::time::Duration;

use futures::future::join_all;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

/// Long compared to the few requests that have to arrive in the meantime, even on a busy machine.
const LONG_HOLD: Duration = Duration::from_millis(1500);
const HOLD: Duration = Duration::from_millis(300);

/// Runs the same scenarios for each framework, each against a separate server process.
macro_rules! in_each_framework {
    ({ $($framework:ident: $example:literal,)* } $scenarios:tt) => {
        $(in_one! { $framework $example $scenarios })*
    };
}

macro_rules! in_one {
    ($framework:ident $example:literal { $($scenario:ident($hold:ident),)* }) => {
        mod $framework {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(&super::Example::start($example, super::$hold).await).await;
            })*
        }
    };
}

in_each_framework! {
    {
        axum: "axum_per_user",
        actix: "actix_per_user",
    }
    {
        busy_user_is_refused_and_another_user_is_served(LONG_HOLD),
        user_is_served_again_after_the_response(HOLD),
        request_without_a_user_is_refused(HOLD),
        user_stays_busy_after_a_disconnect_until_the_handler_has_finished(LONG_HOLD),
        many_users_are_served_at_once(LONG_HOLD),
    }
}

async fn busy_user_is_refused_and_another_user_is_served(example: &Example) {
    let first = work(example, "ada");
    example.wait_for_lines(1).await;

    let refused = post(example, Some("ada")).await;
    assert_eq!(example.printed(), "Hello ada", "refused while the first request still runs");
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let retry_after = refused.headers()["retry-after"].to_str().expect("the header is ASCII");
    assert!(retry_after.parse::<u64>().is_ok_and(|seconds| seconds >= 1), "Retry-After: {retry_after}");
    let problem: Value = refused.json().await.expect("a problem is JSON");
    assert_eq!(
        (&problem["type"], &problem["status"]),
        (&json!("https://docs.rs/onelane/latest/onelane/web/index.html#busy"), &json!(429)),
        "{problem:#}"
    );

    let other = work(example, "grace");
    example.wait_for_lines(2).await;
    assert_eq!(example.printed(), "Hello ada Hello grace", "the other user's request runs next to the first one");

    assert_eq!(first.await.expect("the task does not panic"), (200, "done for ada".into()));
    assert_eq!(other.await.expect("the task does not panic"), (200, "done for grace".into()));
    let stats = wait_until_idle(example).await;
    assert_eq!((number(&stats, "granted"), number(&stats, "refused")), (2, 1), "{stats:#}");
}

async fn user_is_served_again_after_the_response(example: &Example) {
    for round in 1..=3 {
        assert_eq!(
            work(example, "ada").await.expect("the task does not panic"),
            (200, "done for ada".into()),
            "round {round}"
        );
    }
    let stats = wait_until_idle(example).await;
    assert_eq!((number(&stats, "granted"), number(&stats, "refused")), (3, 0), "{stats:#}");
}

async fn request_without_a_user_is_refused(example: &Example) {
    let refused = post(example, None).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let problem: Value = refused.json().await.expect("a problem is JSON");
    assert_eq!(problem["type"], "https://docs.rs/onelane/latest/onelane/web/index.html#key-missing", "{problem:#}");
    assert_eq!(example.printed(), "", "its handler never ran");
    assert_eq!(number(&example.stats().await, "granted"), 0);
}

async fn user_stays_busy_after_a_disconnect_until_the_handler_has_finished(example: &Example) {
    let client = RawClient::send(example.address, request("ada")).await;
    example.wait_for_lines(1).await;
    client.disconnect(Disconnect::Rst).await;

    let is_detached = |stats: &Value| number(stats, "detached") == 1;
    let stats = example.wait_for_stats("the handler continues without its client", is_detached).await;
    assert_eq!(number(&stats, "held"), 1, "{stats:#}");
    assert_eq!(post(example, Some("ada")).await.status(), 429);
    assert_eq!(example.printed(), "Hello ada");

    example.wait_for_lines(2).await;
    let stats = wait_until_idle(example).await;
    assert_eq!(number(&stats, "finished_detached"), 1, "{stats:#}");
    assert_eq!(work(example, "ada").await.expect("the task does not panic"), (200, "done for ada".into()));
    assert_eq!(example.printed(), "Hello ada bye ada Hello ada bye ada");
}

async fn many_users_are_served_at_once(example: &Example) {
    let users: Vec<String> = (0..100).map(|n| format!("user-{n}")).collect();
    let answers = join_all(users.iter().map(|user| work(example, user))).await;
    for (answer, user) in answers.into_iter().zip(&users) {
        assert_eq!(answer.expect("the task does not panic"), (200, format!("done for {user}")));
    }
    let stats = wait_until_idle(example).await;
    assert_eq!((number(&stats, "granted"), number(&stats, "queued")), (100, 0), "{stats:#}");
}

async fn post(example: &Example, user: Option<&str>) -> Response {
    let request = web_client().post(example.url("/work"));
    let request = match user {
        Some(user) => request.header("x-user", user),
        None => request,
    };
    request.send().await.expect("the server responds")
}

/// Sends a POST request from a spawned task. Returns status and body.
fn work(example: &Example, user: &str) -> JoinHandle<(u16, String)> {
    let request = web_client().post(example.url("/work")).header("x-user", user);
    tokio::spawn(async move {
        let response = request.send().await.expect("the server responds");
        (response.status().as_u16(), response.text().await.expect("the body is complete"))
    })
}

/// Returns a request as it is sent on the wire.
fn request(user: &str) -> String {
    format!("POST /work HTTP/1.1\r\nhost: localhost\r\nx-user: {user}\r\ncontent-length: 0\r\n\r\n")
}

async fn wait_until_idle(example: &Example) -> Value {
    let idle = |stats: &Value| ["held", "waiting", "detached"].iter().all(|field| number(stats, field) == 0);
    example.wait_for_stats("the guard is idle", idle).await
}

fn number(stats: &Value, field: &str) -> u64 {
    stats[field].as_u64().unwrap_or_else(|| panic!("{field} is not a number in {stats:#}"))
}
