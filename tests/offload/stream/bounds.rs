//! How many items are produced ahead of the consumer, and which threads that leaves to other tasks.

use std::any::type_name;
use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use onelane::offload::BlockingPool;
use onelane::{run_blocking, stream_blocking};
use tokio::time::sleep;
use tower::BoxError;

use crate::stream::source::{Source, Watch, next};
use support::waiting::{Gate, soon, until};

#[tokio::test]
async fn slow_consumer_keeps_the_items_within_their_limit() {
    for max_items in [1, 2, 3, 10, 100, 2_000] {
        let watch = Watch::default();
        let mut stream = stream_blocking(Source::new(&watch)).max_items(max_items);
        for taken in 0..300 {
            assert_eq!(next(&mut stream).await, taken);
            let produced = watch.produced();
            // The item that was taken last counts until the next one is requested.
            assert!(produced <= taken + max_items, "{produced} produced, {taken} taken, {max_items}");
        }
        // More than half is produced when the consumer stops. A quarter may be in the consumer's chunk.
        until("items are produced ahead", || watch.produced() >= 300 + max_items / 4).await;
        // Real time: there is no event for an item that is not produced. On a busy machine the test may pass wrongly.
        sleep(Duration::from_millis(5)).await;
        assert!(watch.produced() <= 299 + max_items);
    }
}

#[tokio::test]
async fn slow_consumer_keeps_the_bytes_within_their_limit() {
    // In the third case, the last item exceeds the limit.
    for (size, max_produced) in [(1_000, 10), (999, 11), (4_000, 3), (50_000, 1), (usize::MAX, 1)] {
        let watch = Watch::default();
        let mut stream = stream_blocking(Source::new(&watch)).max_bytes(10_000, move |_| size);
        for taken in 0..50 {
            assert_eq!(next(&mut stream).await, taken);
            let produced = watch.produced();
            assert!(produced <= taken + max_produced, "{produced} produced, {taken} taken, {size}");
        }
        until("items are produced ahead", || watch.produced() >= 50 + max_produced / 4).await;
    }
}

#[tokio::test]
async fn stream_with_a_limit_of_zero_produces_each_item_when_it_is_polled_for_it() {
    let items = |watch: &Watch| stream_blocking(Source::new(watch));
    let (by_items, by_bytes) = (Watch::default(), Watch::default());
    let streams = [items(&by_items).max_items(0), items(&by_bytes).max_bytes(0, |_| 1)];
    for (mut stream, watch) in streams.into_iter().zip([by_items, by_bytes]) {
        for taken in 0..100 {
            assert_eq!(next(&mut stream).await, taken);
            assert_eq!(watch.produced(), taken + 1);
        }
        // Real time: there is no event for an item that is not produced.
        sleep(Duration::from_millis(5)).await;
        assert_eq!(watch.produced(), 100);
    }
}

#[tokio::test]
async fn slow_readers_leave_their_threads_to_others() {
    for threads in [1, 2, 40] {
        let pool = BlockingPool::builder("pool").max_running(threads).build();
        let watches: Vec<Watch> = (0..threads).map(|_| Watch::default()).collect();
        let mut streams: Vec<_> = watches.iter().map(|watch| pool.stream(Source::new(watch)).max_items(100)).collect();
        soon("all streams start", join_all(streams.iter_mut().map(next))).await;
        // As many tasks as there are threads, at the same time: no stream occupies a thread.
        let (all, gate) = (Watch::default(), Gate::default());
        let others: Vec<_> = (0..threads)
            .map(|_| {
                let (mut all, gate) = (Source::new(&all), gate.wait());
                let work = move |_: &_| {
                    all.next();
                    gate.block();
                };
                pool.task(work).start().unwrap()
            })
            .collect();
        until("all tasks run", || all.produced() == threads).await;
        gate.open();
        soon("the tasks end", join_all(others)).await;
        // The streams continue.
        for stream in &mut streams {
            for item in 1..500 {
                assert_eq!(next(stream).await, item);
            }
        }
    }
}

#[tokio::test]
async fn forty_slow_readers_of_the_default_pool_do_not_block_the_next_call() {
    let watch = Watch::default();
    let mut streams: Vec<_> = (0..40).map(|_| stream_blocking(Source::new(&watch))).collect();
    soon("all streams start", join_all(streams.iter_mut().map(next))).await;
    assert_eq!(soon("the task runs", run_blocking(|| 7)).await, Ok(7));
}

/// Checks how many of these items are produced while the consumer takes none after the first one. (That one counts
/// until the next one is requested.)
async fn assert_produced_ahead<T: Send + 'static>(expected: usize, make: impl Fn() -> T + Send + 'static) {
    let watch = Watch::default();
    let mut stream = stream_blocking(Source::new(&watch).end(5_000).map(move |_| make()));
    soon("the first item", stream.next()).await.unwrap().unwrap();
    until("items are produced ahead", || watch.produced() >= expected).await;
    // Real time: there is no event for an item that is not produced. On a busy machine the test may pass wrongly.
    sleep(Duration::from_millis(20)).await;
    assert_eq!(watch.produced(), expected, "of {}", type_name::<T>());
}

#[tokio::test(flavor = "multi_thread")]
async fn items_whose_size_is_known_are_limited_to_a_mebibyte() {
    const SIZE: usize = 256 * 1024;
    assert_produced_ahead(4, || vec![1_u8; SIZE]).await;
    assert_produced_ahead(4, || "x".repeat(SIZE)).await;
    assert_produced_ahead(4, || Ok::<_, io::Error>(vec![1_u8; SIZE])).await;
    assert_produced_ahead(4, || Ok::<_, BoxError>("x".repeat(SIZE))).await;
    assert_produced_ahead(4, || Ok::<_, Infallible>(Bytes::from(vec![1_u8; SIZE]))).await;
    assert_produced_ahead(4, || Bytes::from(vec![1_u8; SIZE])).await;
    assert_produced_ahead(4, || Cow::Owned::<'static, str>("x".repeat(SIZE))).await;
    // Without a destructor, an item has no memory elsewhere.
    assert_produced_ahead(64, || [1_u8; SIZE / 16]).await;
    assert_produced_ahead(1024, || 7_u64).await;
    assert_produced_ahead(1024, String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_whose_size_is_unknown_are_limited_to_a_few() {
    struct Page(#[expect(dead_code, reason = "its size is unknown")] Vec<u8>);
    assert_produced_ahead(16, || Page(vec![1; 256 * 1024])).await;
    assert_produced_ahead(16, || Ok::<_, Page>(7)).await;
    // The limits of a stream with options of its own.
    let watch = Watch::default();
    let mut stream = stream_blocking(Source::new(&watch).end(500).map(|_| Page(Vec::new()))).max_items(100);
    soon("the first item", stream.next()).await.unwrap().unwrap();
    until("items are produced ahead", || watch.produced() == 100).await;
}

/// Both limits apply, whichever setter is called first.
#[tokio::test(flavor = "multi_thread")]
async fn limit_of_bytes_applies_beside_the_limit_of_items() {
    for bytes_first in [true, false] {
        let watch = Watch::default();
        let mut stream = stream_blocking(Source::new(&watch).end(5_000).map(|_| vec![1_u8; 1_000]));
        stream = match bytes_first {
            true => stream.max_bytes(10_000, Vec::len).max_items(500),
            false => stream.max_items(500).max_bytes(10_000, Vec::len),
        };
        soon("the first item", stream.next()).await.unwrap().unwrap();
        until("items are produced ahead", || watch.produced() == 10).await;
    }
}
