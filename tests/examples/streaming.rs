//! The example about streams from blocking iterators, run like a user runs it, with requests over real sockets.

use std::time::{Duration, Instant};

use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

const HOLD: Duration = Duration::from_millis(400);
/// Long enough to observe what happens in the meantime, even on a busy machine.
const LONG: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn first_row_arrives_at_once_and_the_others_one_by_one_in_order() {
    let example = Example::start("axum_streaming", LONG).await;
    let start = Instant::now();
    let mut answer = web_client().get(example.url("/rows")).send().await.expect("the server responds");
    let first = answer.chunk().await.expect("the body is complete").expect("the body has a first row");
    assert!(start.elapsed() < LONG, "the first row took {:?}", start.elapsed());
    assert_eq!(&first[..], b"row 1\n");
    // Other requests are answered while the client waits for the second row.
    let other = web_client().get(example.url("/")).send().await.expect("the server responds");
    assert_eq!(other.text().await.expect("the body is text"), "hello\n");
    assert!(start.elapsed() < LONG, "the other request was answered after {:?}", start.elapsed());

    let mut rows = first.to_vec();
    while let Some(more) = answer.chunk().await.expect("the body is complete") {
        rows.extend_from_slice(&more);
    }
    assert_eq!(String::from_utf8_lossy(&rows), "row 1\nrow 2\nrow 3\nrow 4\nrow 5\n");
    assert!(start.elapsed() >= 4 * LONG, "four rows took {:?}", start.elapsed());
    example.wait_for_lines(2).await;
    assert_eq!(example.printed(), "Hello Goodbye");
}

#[tokio::test]
async fn clients_that_stop_reading_occupy_no_thread() {
    let example = Example::start("axum_streaming", HOLD).await;
    // These clients read nothing after the first row of an endless stream. There are more of them than the 40 threads
    // of the pool.
    let mut slow = Vec::new();
    for _ in 0..45 {
        let request = "GET /export HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let mut client = RawClient::send(example.address, request).await;
        client.read_until("row 1\n").await;
        slow.push(client);
    }
    example.wait_for_stats("all buffers are full", |stats| stats["running"] == 0 && stats["queued"] == 0).await;
    let other = web_client().get(example.url("/rows")).send().await.expect("the server responds");
    assert_eq!(other.text().await.expect("the body is text").lines().count(), 5, "another stream is not affected");

    for client in slow {
        client.disconnect(Disconnect::Rst).await;
    }
    example.wait_for_lines(92).await;
    let goodbyes = example.texts().iter().filter(|line| *line == "Goodbye").count();
    assert_eq!(goodbyes, 46, "all iterators were dropped");
    example.wait_for_stats("no thread is occupied", |stats| stats["running"] == 0).await;
}
