//! Which items arrive, in which order, and when.

use std::iter::once_with;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use futures::stream::FusedStream;
use futures::{Stream, StreamExt, TryStreamExt};
use onelane::offload::BlockingPool;
use onelane::stream_blocking;
use tokio::task::yield_now;

use crate::runtimes::{current_thread, multi_thread};
use crate::stream::source::{Source, Watch, next};
use support::waiting::{Gate, soon, until};

#[test]
fn a_million_items_arrive_in_order() {
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(async {
            let mut stream = stream_blocking(0..1_000_000);
            let mut expected = 0;
            while let Some(item) = stream.next().await {
                assert_eq!(item.unwrap(), expected);
                expected += 1;
            }
            assert_eq!(expected, 1_000_000);
        });
    }
}

#[test]
fn items_arrive_in_order_through_the_smallest_buffers() {
    for runtime in [current_thread(), multi_thread()] {
        for max_items in 0..10 {
            let stream = stream_blocking(0..2_000).max_items(max_items);
            let items: Vec<i32> = runtime.block_on(soon("all items arrive", stream.try_collect())).unwrap();
            assert!(items.into_iter().eq(0..2_000), "{max_items}");
        }
    }
}

#[tokio::test]
async fn no_item_waits_for_a_slow_one_after_it() {
    let (watch, second, fifth) = (Watch::default(), Gate::default(), Gate::default());
    let source = Source::new(&watch).wait_at(1, &second).wait_at(4, &fifth).end(6);
    let mut stream = stream_blocking(source);
    assert_eq!(next(&mut stream).await, 0);
    second.open();
    // The stream is not polled while these items are produced, and gets all of them.
    until("the iterator reaches its gate", || watch.produced() == 5).await;
    for item in 1..4 {
        assert_eq!(next(&mut stream).await, item);
    }
    fifth.open();
    assert_eq!((next(&mut stream).await, next(&mut stream).await), (4, 5));
    assert!(soon("the stream ends", stream.next()).await.is_none());
}

#[tokio::test]
async fn iterator_is_created_run_and_dropped_on_threads_of_the_pool() {
    let here = thread::current().id();
    let mut stream = stream_blocking(once_with(move || assert_ne!(thread::current().id(), here)));
    next(&mut stream).await;

    let watch = Watch::default();
    let mut stream = stream_blocking(Source::new(&watch).end(0));
    assert!(soon("the stream ends", stream.next()).await.is_none());
    // The iterator was dropped before the stream ended.
    assert_ne!(watch.dropped().unwrap(), here);
}

#[tokio::test]
async fn stream_is_one_task_of_its_pool_with_its_label() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::new("exports");
    let mut stream = pool.stream(Source::new(&watch).wait_at(1, &gate).end(2)).label("squares.csv");
    assert_eq!(pool.stats().running, 0);
    next(&mut stream).await;
    let statistics = pool.stats();
    assert_eq!((statistics.running, statistics.queued, statistics.started), (1, 0, 1));
    assert_eq!(statistics.tasks[0].label, "squares.csv");
}

#[tokio::test]
async fn task_that_takes_over_a_polled_stream_is_woken() {
    let (watch, gate, end) = (Watch::default(), Gate::default(), Gate::default());
    // The iterator does not end meanwhile, since the end would wake the task, too.
    let mut stream = stream_blocking(Source::new(&watch).wait_at(0, &gate).wait_at(1, &end));
    let polled = futures::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_next(cx).is_pending())).await;
    assert!(polled);
    let other = tokio::spawn(async move { next(&mut stream).await });
    yield_now().await;
    gate.open();
    assert_eq!(soon("the task is woken", other).await.unwrap(), 0);
}

#[test]
fn stream_that_is_always_ready_lets_other_tasks_run() {
    const ITEMS: usize = 100_000;
    current_thread().block_on(async {
        let watch = Watch::default();
        let mut stream = stream_blocking(Source::new(&watch).end(ITEMS)).max_items(2 * ITEMS);
        next(&mut stream).await;
        until("the iterator is dropped", || watch.dropped().is_some()).await;

        let (yields, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let other = tokio::spawn({
            let (yields, is_over) = (Arc::clone(&yields), Arc::clone(&is_over));
            async move {
                while !is_over.load(Ordering::SeqCst) {
                    yields.fetch_add(1, Ordering::SeqCst);
                    yield_now().await;
                }
            }
        });
        let rest = stream.count().await;
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(rest, ITEMS - 1);
        other.await.unwrap();
        assert!(yields.load(Ordering::SeqCst) > 100, "{yields:?}");
    });
}

#[tokio::test]
async fn size_hint_has_no_upper_bound_until_the_stream_has_ended() {
    let mut stream = stream_blocking([7]);
    assert_eq!((stream.size_hint(), stream.is_terminated()), ((0, None), false));
    assert_eq!(next(&mut stream).await, 7);
    assert_eq!((stream.size_hint(), stream.is_terminated()), ((0, None), false));
    assert!(soon("the stream ends", stream.next()).await.is_none());
    assert_eq!((stream.size_hint(), stream.is_terminated()), ((0, Some(0)), true));
}
