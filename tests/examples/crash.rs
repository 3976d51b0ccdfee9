//! The example of routes that crash, with requests over real sockets.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

/// Longer than any test waits.
const ENDLESS: Duration = Duration::from_secs(60);

async fn status(example: &Example, path: &str) -> (u16, String) {
    let response = web_client().get(example.url(path)).send().await.expect("the server responds");
    (response.status().as_u16(), response.text().await.expect("the body is text"))
}

async fn is_responsive(example: &Example) {
    for _ in 0..10 {
        assert_eq!(status(example, "/").await, (200, "hello\n".to_owned()));
    }
}

fn workers<'a>(stats: &'a Value, count: &str) -> &'a Value {
    &stats["workers"][count]
}

#[tokio::test]
async fn each_fault_ends_one_request_and_the_server_explains_it() {
    let example = Example::start("axum_crash", Duration::from_millis(1500)).await;
    for (path, expected, printed) in [
        ("/segfault", 500, "SIGSEGV"),
        ("/allocate", 500, "memory_limit"),
        ("/panic", 500, "a picture without pixels"),
        ("/loop", 504, "ran longer than its timeout"),
    ] {
        let (status, body) = status(&example, path).await;
        assert_eq!(status, expected, "{path}: {body}");
        example.wait_for(printed).await;
        assert!(!body.contains(printed), "{path}: the client learns nothing about the fault: {body}");
        is_responsive(&example).await;
    }
    let stats = example.stats().await;
    assert_eq!((workers(&stats, "busy"), &stats["tasks"]["running"]), (&0.into(), &0.into()), "{stats}");
}

#[tokio::test]
async fn other_requests_are_answered_while_workers_crash_and_loop() {
    let example = Example::start("axum_crash", ENDLESS).await;
    let _looping = RawClient::send(example.address, "GET /loop HTTP/1.1\r\nhost: test\r\n\r\n").await;
    example.wait_for_stats("the loop runs", |stats| stats["tasks"]["running"] == 1).await;
    let faults =
        join_all(["/segfault", "/allocate", "/panic"].repeat(3).into_iter().map(|path| status(&example, path)));
    let (faults, ()) = tokio::join!(faults, is_responsive(&example));
    assert!(faults.iter().all(|(status, _)| *status == 500), "{faults:?}");
    let stats = example.stats().await;
    assert_eq!(stats["tasks"]["running"], 1, "the loop still runs: {stats}");
}

#[tokio::test]
async fn worker_whose_client_disconnects_is_killed() {
    let example = Example::start("axum_crash", ENDLESS).await;
    for leave in [Disconnect::Fin, Disconnect::Rst] {
        let client = RawClient::send(example.address, "GET /loop HTTP/1.1\r\nhost: test\r\n\r\n").await;
        example.wait_for_stats("the loop runs", |stats| workers(stats, "busy") == 1).await;
        client.disconnect(leave).await;
        let is_over = |stats: &Value| stats["tasks"]["running"] == 0 && workers(stats, "busy") == 0;
        example.wait_for_stats("the loop has ended", is_over).await;
        is_responsive(&example).await;
    }
}
