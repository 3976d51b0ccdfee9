//! `BlockingStream::started`: what fails before the first item is told before the stream is used.

use std::pin::pin;

use futures::{Stream, StreamExt, poll};
use onelane::offload::OffloadError;
use onelane::{BlockingPool, stream_blocking};

use super::source::{Source, Watch, last, next};
use support::waiting::{Gate, soon, until};

#[tokio::test]
async fn it_waits_for_the_first_item_and_loses_none() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let mut started = pin!(stream_blocking(Source::new(&watch).end(3).wait_at(0, &gate)).started());
    assert!(poll!(&mut started).is_pending());
    until("the first one is made", || watch.made() == 1).await;
    assert!(poll!(&mut started).is_pending());
    gate.open();
    let mut stream = soon("it starts or not", started).await.unwrap();
    for item in 0..3 {
        assert_eq!(next(&mut stream).await, item);
    }
    assert!(soon("its end comes", stream.next()).await.is_none());
}

#[tokio::test]
async fn it_waits_for_no_second_item() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let stream =
        soon("it starts or not", stream_blocking(Source::new(&watch).wait_at(1, &gate)).started()).await.unwrap();
    let mut stream = soon("it starts or not", stream.started()).await.unwrap();
    assert_eq!(next(&mut stream).await, 0);
}

#[tokio::test]
async fn stream_without_items_starts_and_is_over() {
    let watch = Watch::default();
    let stream = soon("it starts or not", stream_blocking(Source::new(&watch).end(0)).started()).await.unwrap();
    assert_eq!(stream.size_hint(), (0, Some(0)));
    let mut stream = soon("it starts or not", stream.started()).await.unwrap();
    assert!(soon("its end comes", stream.next()).await.is_none());
}

#[tokio::test]
async fn stream_that_is_refused_does_not_start() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("small").max_running(1).max_queued(0).build();
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).start().unwrap();
    let refused = soon("it starts or not", pool.stream(Source::new(&watch)).started()).await;
    assert!(matches!(refused, Err(OffloadError::Full { pool: "small", .. })), "{refused:?}");
    assert_eq!(watch.made(), 0);
    assert!(watch.dropped().is_some());
    gate.open();
    soon("the task ends", busy).await.unwrap();
}

#[tokio::test]
async fn panic_before_the_first_item_is_told_and_a_later_one_is_in_the_stream() {
    let watch = Watch::default();
    let panicked = soon("it starts or not", stream_blocking(Source::new(&watch).panic_at(0)).started()).await;
    assert!(matches!(panicked, Err(OffloadError::Panicked(_))), "{panicked:?}");
    let watch = Watch::default();
    let mut stream =
        soon("it starts or not", stream_blocking(Source::new(&watch).panic_at(1)).started()).await.unwrap();
    assert_eq!(next(&mut stream).await, 0);
    assert!(matches!(last(&mut stream).await, OffloadError::Panicked(_)));
}

#[tokio::test]
async fn who_waits_no_longer_stops_the_iterator() {
    let (watch, gate) = (Watch::default(), Gate::default());
    {
        let mut started = pin!(stream_blocking(Source::new(&watch).wait_at(0, &gate)).started());
        assert!(poll!(&mut started).is_pending());
        until("the first one is made", || watch.made() == 1).await;
    }
    gate.open();
    until("it is dropped", || watch.dropped().is_some()).await;
    assert_eq!(watch.made(), 1);
}
