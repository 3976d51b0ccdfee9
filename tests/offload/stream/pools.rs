//! How pools and runtimes affect streams.

use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures::{Stream, StreamExt};
use onelane::offload::{BlockingPool, OffloadErrorKind, iter_from_stream};
use onelane::stream_blocking;

use crate::runtimes::{current_thread, multi_thread};
use crate::stream::source::{Source, Watch, last, next};
use support::waiting::{Gate, PATIENCE, soon, until};

#[tokio::test]
async fn refusal_of_a_full_pool_is_the_only_item() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("small").max_running(1).max_queued(0).build();
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).start().unwrap();
    let mut stream = pool.stream(Source::new(&watch));
    let error = last(&mut stream).await;
    assert_eq!((error.kind(), error.pool()), (OffloadErrorKind::Full, Some("small")));
    assert_eq!(watch.produced(), 0);
    assert!(watch.dropped().is_some());
    gate.open();
    soon("the task ends", busy).await.unwrap();
}

#[tokio::test]
async fn refusal_of_a_closed_pool_follows_the_buffered_items() {
    let watch = Watch::default();
    let pool = BlockingPool::new("pool");
    let mut stream = pool.stream(Source::new(&watch)).max_items(8);
    assert_eq!(next(&mut stream).await, 0);
    until("its thread is released", || pool.stats().running == 0).await;
    let produced = watch.produced();
    pool.close();
    for item in 1..produced {
        assert_eq!(next(&mut stream).await, item);
    }
    assert_eq!(last(&mut stream).await, OffloadErrorKind::Closed);
    assert_eq!(watch.produced(), produced);
    assert!(watch.dropped().is_some());
    assert_eq!(last(&mut pool.stream([1])).await, OffloadErrorKind::Closed);
}

#[tokio::test]
async fn pool_closed_while_the_iterator_runs_does_not_end_its_task() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::new("pool");
    let mut stream = pool.stream(Source::new(&watch).wait_at(1, &gate).end(3));
    assert_eq!(next(&mut stream).await, 0);
    pool.close();
    gate.open();
    assert_eq!((next(&mut stream).await, next(&mut stream).await), (1, 2));
    assert!(soon("the stream ends", stream.next()).await.is_none());
}

#[tokio::test]
async fn pool_closed_while_the_task_is_queued_wakes_the_stream() {
    let gate = Gate::default();
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let wait = gate.wait();
    let _busy = pool.task(move |_| wait.block()).start().unwrap();
    let mut stream = pool.stream([1]);
    let refused = tokio::spawn(async move { last(&mut stream).await });
    until("the task is queued", || pool.stats().queued == 1).await;
    pool.close();
    assert_eq!(soon("the refusal arrives", refused).await.unwrap(), OffloadErrorKind::Closed);
}

#[tokio::test]
async fn max_wait_applies_to_the_first_item() {
    let gate = Gate::default();
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let wait = gate.wait();
    let _busy = pool.task(move |_| wait.block()).start().unwrap();
    let mut stream = pool.stream([1]).max_wait(Duration::from_millis(1));
    assert_eq!(last(&mut stream).await, OffloadErrorKind::QueueTimeout);
}

#[tokio::test]
async fn started_stream_waits_for_a_thread_without_a_time_limit() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("pool").max_running(1).max_wait(Duration::from_millis(1)).build();
    let mut stream = pool.stream(Source::new(&watch).end(5)).max_items(1).max_wait(PATIENCE);
    assert_eq!(next(&mut stream).await, 0);
    until("its thread is released", || pool.stats().running == 0).await;
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).max_wait(PATIENCE).start().unwrap();
    let rest = tokio::spawn(async move {
        for item in 1..5 {
            assert_eq!(next(&mut stream).await, item);
        }
    });
    until("the task is queued", || pool.stats().queued == 1).await;
    // Real time: there is no event for a timeout that does not happen. On a busy machine the test may pass wrongly.
    tokio::time::sleep(Duration::from_millis(20)).await;
    gate.open();
    soon("the task ends", busy).await.unwrap();
    soon("the remaining items arrive", rest).await.unwrap();
}

#[tokio::test]
async fn started_stream_is_not_refused_by_a_full_pool() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("pool").max_running(1).max_queued(0).build();
    let mut stream = pool.stream(Source::new(&watch).end(5)).max_items(1);
    assert_eq!(next(&mut stream).await, 0);
    until("its thread is released", || pool.stats().running == 0).await;
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).start().unwrap();
    until("the task runs", || pool.stats().running == 1).await;
    let rest = tokio::spawn(async move {
        for item in 1..5 {
            assert_eq!(next(&mut stream).await, item);
        }
    });
    until("the task is queued", || pool.stats().queued == 1).await;
    // Other tasks still are.
    assert_eq!(pool.run(|| ()).await.unwrap_err(), OffloadErrorKind::Full);
    gate.open();
    soon("the task ends", busy).await.unwrap();
    soon("the remaining items arrive", rest).await.unwrap();
}

#[test]
fn stream_outside_of_a_runtime_is_refused() {
    let mut stream = stream_blocking([1]);
    let mut poll = || Pin::new(&mut stream).poll_next(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Some(Err(error))) = poll() else { panic!("the stream ends with an error") };
    assert_eq!(error, OffloadErrorKind::NoRuntime);
    assert_eq!(poll(), Poll::Ready(None));
}

#[test]
fn stream_continues_in_another_runtime_than_it_started_in() {
    for (first, second) in [(current_thread(), multi_thread()), (multi_thread(), current_thread())] {
        let mut stream = stream_blocking(0..1_000).max_items(16);
        assert_eq!(first.block_on(next(&mut stream)), 0);
        drop(first);
        second.block_on(async {
            for item in 1..1_000 {
                assert_eq!(next(&mut stream).await, item);
            }
            assert!(soon("the stream ends", stream.next()).await.is_none());
        });
    }
}

#[test]
fn dropped_runtime_stops_the_iterators_of_its_tasks() {
    for runtime in [current_thread(), multi_thread()] {
        let (watch, gate) = (Watch::default(), Gate::default());
        let source = Source::new(&watch).wait_at(1, &gate);
        let (send_first, received) = mpsc::channel();
        runtime.spawn(async move {
            let mut stream = stream_blocking(source);
            send_first.send(next(&mut stream).await).unwrap();
            next(&mut stream).await;
        });
        let mut first = None;
        runtime.block_on(until("the stream has started", || {
            first = first.or(received.try_recv().ok());
            first.is_some() && watch.produced() == 2
        }));
        assert_eq!(first, Some(0));
        let drops = thread::spawn(move || drop(runtime));
        gate.open();
        drops.join().unwrap();
        assert!(watch.dropped().is_some());
        assert!(watch.produced() <= 1_100, "{}", watch.produced());
    }
}

#[test]
fn stream_whose_task_is_queued_ends_with_its_runtime() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let runtime = current_thread();
    let mut stream = pool.stream(Source::new(&watch));
    let wait = gate.wait();
    runtime.block_on(async {
        let busy = pool.task(move |_| wait.block()).shield().start().unwrap();
        drop(busy);
        until("the task runs", || pool.stats().running == 1).await;
        assert!(futures::poll!(stream.next()).is_pending());
    });
    let drops = thread::spawn(move || drop(runtime));
    let error = current_thread().block_on(last(&mut stream));
    assert_eq!(error, OffloadErrorKind::RuntimeShutdown);
    gate.open();
    drops.join().unwrap();
    assert_eq!(watch.produced(), 0);
}

#[test]
fn stream_polled_on_a_thread_of_its_own_pool_runs_there() {
    for runtime in [current_thread(), multi_thread()] {
        let pool = BlockingPool::builder("pool").max_running(1).build();
        let watch = Watch::default();
        let mut items = iter_from_stream(pool.stream(Source::new(&watch).end(3_000)).max_items(100));
        let work = pool.run({
            let watch = watch.clone();
            move || {
                assert_eq!(items.next(), Some(Ok(0)));
                // The items after this one are not produced yet.
                assert_eq!(watch.produced(), 1);
                items.count()
            }
        });
        assert_eq!(runtime.block_on(soon("the task ends", work)), Ok(2_999));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thread_is_free_once_the_end_of_the_stream_is_seen() {
    let pool = BlockingPool::builder("strict").max_running(1).max_queued(0).build();
    for _ in 0..3_000 {
        let mut stream = pool.stream(0..3);
        while let Some(item) = soon("the next item or the end arrives", stream.next()).await {
            item.unwrap();
        }
        soon("the task runs", pool.run(|| ())).await.unwrap();
    }
}
