//! The examples about work that is done once for all who ask, run as a user runs them, and asked over real sockets.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::task::JoinHandle;

use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

/// Long beside what a busy machine takes for the few requests that have to come meanwhile.
const HOLD: Duration = Duration::from_millis(1500);
/// The same for a thousand.
const LONG_HOLD: Duration = Duration::from_secs(5);
const SHORT_HOLD: Duration = Duration::from_millis(100);

/// The same scenarios for each framework, each against a server process of its own.
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
        thousand_clients_are_one_run_and_get_the_same(LONG_HOLD),
        answers_are_not_kept(SHORT_HOLD),
        first_client_that_leaves_changes_nothing_for_the_others(HOLD),
        other_clients_that_leave_change_nothing_for_the_first(HOLD),
        different_users_do_not_share(HOLD),
        squares_are_shared_by_number(HOLD),
        error_of_the_work_reaches_all_that_share_it(HOLD),
    }
}

async fn thousand_clients_are_one_run_and_get_the_same(example: &Example) {
    let clients = join_all((0..1000).map(|_| ask(example))).await;
    wait_for(example, 1, 999).await;

    let answers = join_all(clients.into_iter().map(async |mut client| {
        // The last bytes of the answer are the body's.
        client.read_until("the report for everyone").await
    }));
    for answer in answers.await {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_counted(example, 1, 999).await;
}

async fn answers_are_not_kept(example: &Example) {
    for _ in 0..3 {
        assert_eq!(get(example, "/report", None).await.expect("no panic"), (200, "the report for everyone".into()));
    }
    assert_counted(example, 3, 0).await;
}

async fn first_client_that_leaves_changes_nothing_for_the_others(example: &Example) {
    let first = ask(example).await;
    wait_for(example, 1, 0).await;
    let others = [(); 2].map(|()| get(example, "/report", None));
    wait_for(example, 1, 2).await;
    first.disconnect(Disconnect::Rst).await;
    for other in others {
        assert_eq!(other.await.expect("no panic"), (200, "the report for everyone".into()));
    }
    assert_counted(example, 1, 2).await;
}

async fn other_clients_that_leave_change_nothing_for_the_first(example: &Example) {
    let first = get(example, "/report", None);
    wait_for(example, 1, 0).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(ask(example).await);
    }
    wait_for(example, 1, 2).await;
    for (other, leave) in others.into_iter().zip([Disconnect::Fin, Disconnect::Rst]) {
        other.disconnect(leave).await;
    }
    assert_eq!(first.await.expect("no panic"), (200, "the report for everyone".into()));
    assert_counted(example, 1, 2).await;
}

async fn different_users_do_not_share(example: &Example) {
    let users = [Some("ada"), Some("grace"), None];
    let twice = users.iter().chain(&users);
    let answers: Vec<_> = twice.map(|user| (get(example, "/report", *user), user.unwrap_or("everyone"))).collect();
    for (answer, user) in answers {
        assert_eq!(answer.await.expect("no panic"), (200, format!("the report for {user}")));
    }
    assert_counted(example, 3, 3).await;
}

async fn squares_are_shared_by_number(example: &Example) {
    let answers: Vec<_> = [12, 12, 12, 7].map(|n| (get(example, &format!("/square/{n}"), None), n * n)).into();
    for (answer, square) in answers {
        assert_eq!(answer.await.expect("no panic"), (200, square.to_string()));
    }
    assert_counted(example, 2, 2).await;
}

async fn error_of_the_work_reaches_all_that_share_it(example: &Example) {
    let answers = [(); 3].map(|()| get(example, "/square/2000", None));
    for answer in answers {
        assert_eq!(answer.await.expect("no panic").0, 422);
    }
    assert_counted(example, 1, 2).await;
}

/// Asks, in a task of its own. Status and body.
fn get(example: &Example, path: &str, user: Option<&str>) -> JoinHandle<(u16, String)> {
    let mut request = web_client().get(example.url(path));
    if let Some(user) = user {
        request = request.header("x-user", user);
    }
    tokio::spawn(async move {
        let response = request.send().await.expect("it answers");
        (response.status().as_u16(), response.text().await.expect("the answer is whole"))
    })
}

/// Asks for the report, with a client that can leave.
async fn ask(example: &Example) -> RawClient {
    // The host is a part of what is asked for: it is the same as the other client's.
    let request = format!("GET /report HTTP/1.1\r\nhost: {}\r\n\r\n", example.address);
    RawClient::send(example.address, request).await
}

/// Waits until so many runs were begun, and so many requests joined one.
async fn wait_for(example: &Example, runs: u64, shared: u64) {
    let counted = |stats: &Value| counts(stats) == (runs, shared);
    example.wait_for_stats(&format!("{runs} runs, {shared} shared"), counted).await;
}

async fn assert_counted(example: &Example, runs: u64, shared: u64) {
    let stats = example.stats().await;
    assert_eq!(counts(&stats), (runs, shared), "{stats:#}");
}

fn counts(stats: &Value) -> (u64, u64) {
    let number = |field: &str| stats[field].as_u64().unwrap_or_else(|| panic!("{field} is no number in {stats:#}"));
    (number("runs"), number("shared"))
}
