//! The examples about shared runs, run like a user runs them, with requests over real sockets.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::task::JoinHandle;

use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

/// Long compared to the few requests that have to arrive in the meantime, even on a busy machine.
const HOLD: Duration = Duration::from_millis(1500);
/// Long compared to a thousand requests.
const LONG_HOLD: Duration = Duration::from_secs(5);
const SHORT_HOLD: Duration = Duration::from_millis(100);

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
        axum: "axum_single_flight",
        actix: "actix_single_flight",
    }
    {
        thousand_clients_share_one_run_and_its_response(LONG_HOLD),
        responses_are_not_cached(SHORT_HOLD),
        disconnect_of_the_first_client_does_not_affect_the_others(HOLD),
        disconnect_of_other_clients_does_not_affect_the_first(HOLD),
        different_users_do_not_share(HOLD),
        squares_are_shared_by_number(HOLD),
        error_of_the_work_reaches_all_callers_that_share_the_run(HOLD),
    }
}

async fn thousand_clients_share_one_run_and_its_response(example: &Example) {
    let clients = join_all((0..1000).map(|_| request_report(example))).await;
    wait_for(example, 1, 999).await;

    let answers = join_all(clients.into_iter().map(async |mut client| {
        // The response ends with the body.
        client.read_until("the report for everyone").await
    }));
    for answer in answers.await {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_counted(example, 1, 999).await;
}

async fn responses_are_not_cached(example: &Example) {
    for _ in 0..3 {
        assert_eq!(
            get(example, "/report", None).await.expect("the task does not panic"),
            (200, "the report for everyone".into())
        );
    }
    assert_counted(example, 3, 0).await;
}

async fn disconnect_of_the_first_client_does_not_affect_the_others(example: &Example) {
    let first = request_report(example).await;
    wait_for(example, 1, 0).await;
    let others = [(); 2].map(|()| get(example, "/report", None));
    wait_for(example, 1, 2).await;
    first.disconnect(Disconnect::Rst).await;
    for other in others {
        assert_eq!(other.await.expect("the task does not panic"), (200, "the report for everyone".into()));
    }
    assert_counted(example, 1, 2).await;
}

async fn disconnect_of_other_clients_does_not_affect_the_first(example: &Example) {
    let first = get(example, "/report", None);
    wait_for(example, 1, 0).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(request_report(example).await);
    }
    wait_for(example, 1, 2).await;
    for (other, leave) in others.into_iter().zip([Disconnect::Fin, Disconnect::Rst]) {
        other.disconnect(leave).await;
    }
    assert_eq!(first.await.expect("the task does not panic"), (200, "the report for everyone".into()));
    assert_counted(example, 1, 2).await;
}

async fn different_users_do_not_share(example: &Example) {
    let users = [Some("ada"), Some("grace"), None];
    let twice = users.iter().chain(&users);
    let answers: Vec<_> = twice.map(|user| (get(example, "/report", *user), user.unwrap_or("everyone"))).collect();
    for (answer, user) in answers {
        assert_eq!(answer.await.expect("the task does not panic"), (200, format!("the report for {user}")));
    }
    assert_counted(example, 3, 3).await;
}

async fn squares_are_shared_by_number(example: &Example) {
    let answers: Vec<_> = [12, 12, 12, 7].map(|n| (get(example, &format!("/square/{n}"), None), n * n)).into();
    for (answer, square) in answers {
        assert_eq!(answer.await.expect("the task does not panic"), (200, square.to_string()));
    }
    assert_counted(example, 2, 2).await;
}

async fn error_of_the_work_reaches_all_callers_that_share_the_run(example: &Example) {
    let answers = [(); 3].map(|()| get(example, "/square/2000", None));
    for answer in answers {
        assert_eq!(answer.await.expect("the task does not panic").0, 422);
    }
    assert_counted(example, 1, 2).await;
}

/// Sends a GET request from a spawned task. Returns status and body.
fn get(example: &Example, path: &str, user: Option<&str>) -> JoinHandle<(u16, String)> {
    let mut request = web_client().get(example.url(path));
    if let Some(user) = user {
        request = request.header("x-user", user);
    }
    tokio::spawn(async move {
        let response = request.send().await.expect("the server responds");
        (response.status().as_u16(), response.text().await.expect("the body is complete"))
    })
}

/// Requests the report with a client that can disconnect.
async fn request_report(example: &Example) -> RawClient {
    // The host is part of the key, so it must be the same as that of the other clients.
    let request = format!("GET /report HTTP/1.1\r\nhost: {}\r\n\r\n", example.address);
    RawClient::send(example.address, request).await
}

/// Waits until `runs` runs have begun and `shared` requests have joined one.
async fn wait_for(example: &Example, runs: u64, shared: u64) {
    let counted = |stats: &Value| counts(stats) == (runs, shared);
    example.wait_for_stats(&format!("{runs} runs, {shared} shared"), counted).await;
}

async fn assert_counted(example: &Example, runs: u64, shared: u64) {
    let stats = example.stats().await;
    assert_eq!(counts(&stats), (runs, shared), "{stats:#}");
}

fn counts(stats: &Value) -> (u64, u64) {
    let number = |field: &str| stats[field].as_u64().unwrap_or_else(|| panic!("{field} is not a number in {stats:#}"));
    (number("runs"), number("shared"))
}
