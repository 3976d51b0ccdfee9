//! The example about streams from iterators that block, run as a user runs it, and asked over real sockets.

use std::time::{Duration, Instant};

use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

const HOLD: Duration = Duration::from_millis(400);
/// Long enough to see what happens meanwhile on a machine that is busy.
const LONG: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn first_row_comes_at_once_and_the_others_in_order_one_by_one() {
    let example = Example::start("axum_streaming", LONG).await;
    let start = Instant::now();
    let mut answer = web_client().get(example.url("/rows")).send().await.expect("it answers");
    let first = answer.chunk().await.expect("it is whole").expect("there is one");
    assert!(start.elapsed() < LONG, "the first row took {:?}", start.elapsed());
    assert_eq!(&first[..], b"row 1\n");
    // Others are answered while the second row is waited for.
    let other = web_client().get(example.url("/")).send().await.expect("it answers");
    assert_eq!(other.text().await.expect("it is text"), "hello\n");
    assert!(start.elapsed() < LONG, "others were answered after {:?}", start.elapsed());

    let mut rows = first.to_vec();
    while let Some(more) = answer.chunk().await.expect("it is whole") {
        rows.extend_from_slice(&more);
    }
    assert_eq!(String::from_utf8_lossy(&rows), "row 1\nrow 2\nrow 3\nrow 4\nrow 5\n");
    assert!(start.elapsed() >= 4 * LONG, "four rows took {:?}", start.elapsed());
    example.wait_for_lines(2).await;
    assert_eq!(example.printed(), "Hello Goodbye");
}

#[tokio::test]
async fn clients_that_read_nothing_take_no_thread_though_they_are_more_than_there_are() {
    let example = Example::start("axum_streaming", HOLD).await;
    // They read nothing after the first row of a stream without an end, and the pool has 40 threads.
    let mut slow = Vec::new();
    for _ in 0..45 {
        let request = "GET /export HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let mut client = RawClient::send(example.address, request).await;
        client.read_until("row 1\n").await;
        slow.push(client);
    }
    example.wait_for_stats("all are full", |stats| stats["running"] == 0 && stats["queued"] == 0).await;
    let other = web_client().get(example.url("/rows")).send().await.expect("it answers");
    assert_eq!(other.text().await.expect("it is text").lines().count(), 5, "another stream goes on beside them");

    for client in slow {
        client.disconnect(Disconnect::Rst).await;
    }
    example.wait_for_lines(92).await;
    let goodbyes = example.texts().iter().filter(|line| *line == "Goodbye").count();
    assert_eq!(goodbyes, 46, "all iterators have stopped");
    example.wait_for_stats("no thread is taken", |stats| stats["running"] == 0).await;
}
