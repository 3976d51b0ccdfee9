//! What the pool and the runtime do to streams.

use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures::{Stream, StreamExt};
use onelane::offload::{BlockingPool, OffloadError, iter_from_stream};
use onelane::stream_blocking;

use crate::stream::source::{Source, Watch, current_thread, last, multi_thread, next};
use support::waiting::{Gate, PATIENCE, soon, until};

#[tokio::test]
async fn full_pool_refuses_with_the_only_item() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("small").max_running(1).max_queued(0).build();
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).start().unwrap();
    let mut stream = pool.stream(Source::new(&watch));
    let error = last(&mut stream).await;
    assert!(matches!(error, OffloadError::Full { pool: "small", .. }), "{error:?}");
    assert_eq!(watch.made(), 0);
    assert!(watch.dropped().is_some());
    gate.open();
    soon("it ends", busy).await.unwrap();
}

#[tokio::test]
async fn closed_pool_refuses_after_what_is_buffered() {
    let watch = Watch::default();
    let pool = BlockingPool::new("pool");
    let mut stream = pool.stream(Source::new(&watch)).max_items(8);
    assert_eq!(next(&mut stream).await, 0);
    until("its thread is free", || pool.statistics().running == 0).await;
    let made = watch.made();
    pool.close();
    for item in 1..made {
        assert_eq!(next(&mut stream).await, item);
    }
    assert_eq!(last(&mut stream).await, OffloadError::Closed);
    assert_eq!(watch.made(), made);
    assert!(watch.dropped().is_some());
    assert_eq!(last(&mut pool.stream([1])).await, OffloadError::Closed);
}

#[tokio::test]
async fn pool_that_is_closed_while_it_runs_does_not_end_it_before_its_buffer_is_full() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::new("pool");
    let mut stream = pool.stream(Source::new(&watch).wait_at(1, &gate).end(3));
    assert_eq!(next(&mut stream).await, 0);
    pool.close();
    gate.open();
    assert_eq!((next(&mut stream).await, next(&mut stream).await), (1, 2));
    assert!(soon("its end comes", stream.next()).await.is_none());
}

#[tokio::test]
async fn pool_that_is_closed_while_it_waits_for_a_thread_wakes_it() {
    let gate = Gate::default();
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let wait = gate.wait();
    let _busy = pool.task(move |_| wait.block()).start().unwrap();
    let mut stream = pool.stream([1]);
    let waits = tokio::spawn(async move { last(&mut stream).await });
    until("it waits", || pool.statistics().queued == 1).await;
    pool.close();
    assert_eq!(soon("it is told", waits).await.unwrap(), OffloadError::Closed);
}

#[tokio::test]
async fn first_item_has_a_queue_timeout() {
    let gate = Gate::default();
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let wait = gate.wait();
    let _busy = pool.task(move |_| wait.block()).start().unwrap();
    let mut stream = pool.stream([1]).queue_timeout(Duration::from_millis(1));
    assert!(matches!(last(&mut stream).await, OffloadError::QueueTimeout { .. }));
}

#[tokio::test]
async fn stream_that_has_begun_waits_for_its_further_turns() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("pool").max_running(1).queue_timeout(Duration::from_millis(1)).build();
    let mut stream = pool.stream(Source::new(&watch).end(5)).max_items(1).queue_timeout(PATIENCE);
    assert_eq!(next(&mut stream).await, 0);
    until("its thread is free", || pool.statistics().running == 0).await;
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).queue_timeout(PATIENCE).start().unwrap();
    let rest = tokio::spawn(async move {
        for item in 1..5 {
            assert_eq!(next(&mut stream).await, item);
        }
    });
    until("it waits", || pool.statistics().queued == 1).await;
    // Real: it shows what does not happen, a timeout. Where it fails to show it, the test passes.
    tokio::time::sleep(Duration::from_millis(20)).await;
    gate.open();
    soon("it ends", busy).await.unwrap();
    soon("the rest comes", rest).await.unwrap();
}

#[tokio::test]
async fn stream_that_has_begun_is_not_refused_by_a_full_pool() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("pool").max_running(1).max_queued(0).build();
    let mut stream = pool.stream(Source::new(&watch).end(5)).max_items(1);
    assert_eq!(next(&mut stream).await, 0);
    until("its thread is free", || pool.statistics().running == 0).await;
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).start().unwrap();
    until("it runs", || pool.statistics().running == 1).await;
    let rest = tokio::spawn(async move {
        for item in 1..5 {
            assert_eq!(next(&mut stream).await, item);
        }
    });
    until("it waits", || pool.statistics().queued == 1).await;
    // Others still are.
    assert!(matches!(pool.run(|| ()).await, Err(OffloadError::Full { .. })));
    gate.open();
    soon("it ends", busy).await.unwrap();
    soon("the rest comes", rest).await.unwrap();
}

#[test]
fn outside_of_a_runtime_it_is_refused() {
    let mut stream = stream_blocking([1]);
    let mut poll = || Pin::new(&mut stream).poll_next(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll(), Poll::Ready(Some(Err(OffloadError::NoRuntime))));
    assert_eq!(poll(), Poll::Ready(None));
}

#[test]
fn stream_goes_on_in_another_runtime_than_the_one_it_began_in() {
    for (first, second) in [(current_thread(), multi_thread()), (multi_thread(), current_thread())] {
        let mut stream = stream_blocking(0..1_000).max_items(16);
        assert_eq!(first.block_on(next(&mut stream)), 0);
        drop(first);
        second.block_on(async {
            for item in 1..1_000 {
                assert_eq!(next(&mut stream).await, item);
            }
            assert!(soon("its end comes", stream.next()).await.is_none());
        });
    }
}

#[test]
fn runtime_that_is_dropped_stops_the_iterators_of_its_tasks() {
    for runtime in [current_thread(), multi_thread()] {
        let (watch, gate) = (Watch::default(), Gate::default());
        let source = Source::new(&watch).wait_at(1, &gate);
        let (first, has_begun) = mpsc::channel();
        runtime.spawn(async move {
            let mut stream = stream_blocking(source);
            first.send(next(&mut stream).await).unwrap();
            next(&mut stream).await;
        });
        let mut begun = None;
        runtime.block_on(until("it has begun", || {
            begun = begun.or(has_begun.try_recv().ok());
            begun.is_some() && watch.made() == 2
        }));
        assert_eq!(begun, Some(0));
        let drops = thread::spawn(move || drop(runtime));
        gate.open();
        drops.join().unwrap();
        assert!(watch.dropped().is_some());
        assert!(watch.made() <= 1_100, "{}", watch.made());
    }
}

#[test]
fn stream_that_waits_for_a_thread_ends_with_its_runtime() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let runtime = current_thread();
    let mut stream = pool.stream(Source::new(&watch));
    let wait = gate.wait();
    runtime.block_on(async {
        let busy = pool.task(move |_| wait.block()).shield().start().unwrap();
        drop(busy);
        until("it runs", || pool.statistics().running == 1).await;
        assert!(futures::poll!(stream.next()).is_pending());
    });
    let drops = thread::spawn(move || drop(runtime));
    let error = current_thread().block_on(last(&mut stream));
    assert_eq!(error, OffloadError::RuntimeShutdown);
    gate.open();
    drops.join().unwrap();
    assert_eq!(watch.made(), 0);
}

#[test]
fn polled_on_a_thread_of_its_own_pool_it_runs_there() {
    for runtime in [current_thread(), multi_thread()] {
        let pool = BlockingPool::builder("pool").max_running(1).build();
        let watch = Watch::default();
        let mut items = iter_from_stream(pool.stream(Source::new(&watch).end(3_000)).max_items(100));
        let work = pool.run({
            let watch = watch.clone();
            move || {
                assert_eq!(items.next(), Some(Ok(0)));
                // It does not make those that are still to come first.
                assert_eq!(watch.made(), 1);
                items.count()
            }
        });
        assert_eq!(runtime.block_on(soon("it ends", work)), Ok(2_999));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_seen_the_end_finds_its_thread_free() {
    let pool = BlockingPool::builder("strict").max_running(1).max_queued(0).build();
    for _ in 0..3_000 {
        let mut stream = pool.stream(0..3);
        while let Some(item) = soon("it goes on", stream.next()).await {
            item.unwrap();
        }
        soon("it runs", pool.run(|| ())).await.unwrap();
    }
}
