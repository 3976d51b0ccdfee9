//! The first examples, run like a user runs them, with requests over real sockets.

use std::time::{Duration, Instant};

use support::client::web_client;
use support::process::Example;

/// The examples use fixed waits, not this one.
const HOLD: Duration = Duration::ZERO;
/// How long the handlers of `hello_guard` and `hello_blocking` take.
const SECOND: Duration = Duration::from_secs(1);

async fn get(example: &Example, path: &str) -> String {
    let response = web_client().get(example.url(path)).send().await.expect("the server responds");
    assert_eq!(response.status(), 200);
    response.text().await.expect("the body is text")
}

#[tokio::test]
async fn hello_guard_serves_two_requests_one_after_the_other() {
    let example = Example::start("hello_guard", HOLD).await;
    let post = async || {
        let response = web_client().post(example.url("/report")).send().await.expect("the server responds");
        assert_eq!(response.text().await.expect("the body is text"), "done\n");
    };
    let start = Instant::now();
    tokio::join!(post(), post());
    assert!(start.elapsed() >= 2 * SECOND, "two requests took {:?}", start.elapsed());
}

#[tokio::test]
async fn hello_blocking_answers_another_request_while_a_handler_blocks() {
    let example = Example::start("hello_blocking", HOLD).await;
    let blocked = async {
        let user = get(&example, "/users/7").await;
        (user, Instant::now())
    };
    let other = async {
        // Sent last, so that the handler already blocks.
        tokio::time::sleep(SECOND / 4).await;
        let hello = get(&example, "/").await;
        (hello, Instant::now())
    };
    let ((user, user_at), (hello, hello_at)) = tokio::join!(blocked, other);
    assert_eq!((&*user, &*hello), ("user 7\n", "hello\n"));
    assert!(hello_at < user_at, "the other request waited for the handler that blocks");
}

#[cfg(unix)]
#[tokio::test]
async fn hello_service_runs_next_to_the_server_and_stops_after_it() {
    let mut example = Example::start("hello_service", HOLD).await;
    let mut loops = 0;
    while loops == 0 {
        loops = get(&example, "/").await.trim().parse::<u64>().expect("the body is a number");
    }
    assert!(example.lines().is_empty(), "the service still runs");
    example.signal(rustix::process::Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(example.texts(), ["service stopped"]);
}
