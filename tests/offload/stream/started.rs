//! `BlockingStream::started`, which returns the errors before the first item.

use std::pin::pin;

use futures::{Stream, StreamExt, poll};
use onelane::offload::OffloadErrorKind;
use onelane::{BlockingPool, stream_blocking};

use crate::stream::source::{Source, Watch, last, next};
use support::waiting::{Gate, soon, until};

#[tokio::test]
async fn started_waits_for_the_first_item_and_loses_none() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let mut started = pin!(stream_blocking(Source::new(&watch).end(3).wait_at(0, &gate)).started());
    assert!(poll!(&mut started).is_pending());
    until("the first item is produced", || watch.produced() == 1).await;
    assert!(poll!(&mut started).is_pending());
    gate.open();
    let mut stream = soon("the stream starts or fails", started).await.unwrap();
    for item in 0..3 {
        assert_eq!(next(&mut stream).await, item);
    }
    assert!(soon("the stream ends", stream.next()).await.is_none());
}

#[tokio::test]
async fn started_does_not_wait_for_a_second_item() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let stream = soon("the stream starts or fails", stream_blocking(Source::new(&watch).wait_at(1, &gate)).started())
        .await
        .unwrap();
    let mut stream = soon("the stream starts or fails", stream.started()).await.unwrap();
    assert_eq!(next(&mut stream).await, 0);
}

#[tokio::test]
async fn stream_without_items_starts_and_ends() {
    let watch = Watch::default();
    let stream =
        soon("the stream starts or fails", stream_blocking(Source::new(&watch).end(0)).started()).await.unwrap();
    assert_eq!(stream.size_hint(), (0, Some(0)));
    let mut stream = soon("the stream starts or fails", stream.started()).await.unwrap();
    assert!(soon("the stream ends", stream.next()).await.is_none());
}

#[tokio::test]
async fn refused_stream_does_not_start() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("small").max_running(1).max_queued(0).build();
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).start().unwrap();
    let refused = soon("the stream starts or fails", pool.stream(Source::new(&watch)).started()).await;
    let error = refused.unwrap_err();
    assert_eq!((error.kind(), error.pool()), (OffloadErrorKind::Full, Some("small")));
    assert_eq!(watch.produced(), 0);
    assert!(watch.dropped().is_some());
    gate.open();
    soon("the task ends", busy).await.unwrap();
}

#[tokio::test]
async fn panic_before_the_first_item_is_returned_and_a_later_one_is_in_the_stream() {
    let watch = Watch::default();
    let panicked = soon("the stream starts or fails", stream_blocking(Source::new(&watch).panic_at(0)).started()).await;
    assert_eq!(panicked.unwrap_err(), OffloadErrorKind::Panicked);
    let watch = Watch::default();
    let mut stream =
        soon("the stream starts or fails", stream_blocking(Source::new(&watch).panic_at(1)).started()).await.unwrap();
    assert_eq!(next(&mut stream).await, 0);
    assert_eq!(last(&mut stream).await, OffloadErrorKind::Panicked);
}

#[tokio::test]
async fn dropping_the_started_future_stops_the_iterator() {
    let (watch, gate) = (Watch::default(), Gate::default());
    {
        let mut started = pin!(stream_blocking(Source::new(&watch).wait_at(0, &gate)).started());
        assert!(poll!(&mut started).is_pending());
        until("the first item is produced", || watch.produced() == 1).await;
    }
    gate.open();
    until("the iterator is dropped", || watch.dropped().is_some()).await;
    assert_eq!(watch.produced(), 1);
}
