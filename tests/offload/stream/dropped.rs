//! Streams that are dropped before their end.

use std::iter::once_with;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

use futures::Stream;
use onelane::offload::BlockingPool;
use onelane::offload::from_thread::check_cancelled;
use onelane::stream_blocking;
use tokio::sync::oneshot;

use crate::stream::source::{Source, Watch, next};
use support::waiting::{Gate, soon, until};

#[tokio::test]
async fn stream_dropped_before_it_is_polled_never_starts() {
    let watch = Watch::default();
    let pool = BlockingPool::new("pool");
    drop(pool.stream(Source::new(&watch)).max_items(3));
    assert_eq!((watch.produced(), watch.dropped(), pool.stats().started), (0, Some(thread::current().id()), 0));
}

#[tokio::test]
async fn stream_dropped_while_an_item_is_produced_stops_after_it() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let mut stream = stream_blocking(Source::new(&watch).wait_at(2, &gate));
    next(&mut stream).await;
    until("the iterator reaches its gate", || watch.produced() == 3).await;
    drop(stream);
    assert_eq!(watch.dropped(), None);
    gate.open();
    until("the iterator is dropped", || watch.dropped().is_some()).await;
    assert_ne!(watch.dropped(), Some(thread::current().id()));
    assert_eq!(watch.produced(), 3);
}

#[tokio::test]
async fn stream_dropped_during_a_slow_item_cancels_its_task() {
    let (send_started, started) = oneshot::channel();
    let (send_cancelled, cancelled) = oneshot::channel();
    let mut stream = stream_blocking(once_with(move || {
        send_started.send(()).unwrap();
        while check_cancelled().is_ok() {
            thread::yield_now();
        }
        send_cancelled.send(()).unwrap();
    }));
    assert!(poll(&mut stream).is_pending());
    soon("the task runs", started).await.unwrap();
    drop(stream);
    soon("the iterator is cancelled", cancelled).await.unwrap();
}

#[tokio::test]
async fn stream_dropped_while_its_buffer_is_full_drops_the_iterator_on_this_thread() {
    let watch = Watch::default();
    let pool = BlockingPool::new("pool");
    let mut stream = pool.stream(Source::new(&watch)).max_items(4);
    next(&mut stream).await;
    until("its thread is released", || pool.stats().running == 0).await;
    assert_eq!((watch.produced(), watch.dropped()), (4, None));
    drop(stream);
    assert_eq!((watch.produced(), watch.dropped()), (4, Some(thread::current().id())));
}

#[tokio::test]
async fn stream_dropped_while_its_task_is_queued_never_starts() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).start().unwrap();
    until("the task runs", || pool.stats().running == 1).await;
    let mut stream = pool.stream(Source::new(&watch));
    assert!(poll(&mut stream).is_pending());
    assert_eq!(pool.stats().queued, 1);
    drop(stream);
    assert_eq!((watch.dropped(), pool.stats().queued), (Some(thread::current().id()), 0));
    gate.open();
    soon("the task ends", busy).await.unwrap();
    soon("the task runs", pool.run(|| ())).await.unwrap();
    assert_eq!(watch.produced(), 0);
}

#[tokio::test]
async fn items_that_were_not_taken_are_dropped_with_the_stream() {
    let item = Arc::new(());
    let items = std::iter::repeat_n(Arc::clone(&item), 1_000);
    let pool = BlockingPool::new("pool");
    let mut stream = pool.stream(items).max_items(100);
    next(&mut stream).await;
    until("its thread is released", || pool.stats().running == 0).await;
    assert!(Arc::strong_count(&item) >= 100);
    drop(stream);
    assert_eq!(Arc::strong_count(&item), 1);
}

#[tokio::test]
async fn panics_of_dropped_items_do_not_propagate() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the drop of an item panics");
        }
    }
    let watch = Watch::default();
    let pool = BlockingPool::new("pool");
    let bombs = Source::new(&watch).panic_when_dropped().map(|_| Bomb);
    let mut stream = pool.stream(bombs).max_items(64);
    let _ = std::mem::ManuallyDrop::new(next(&mut stream).await);
    until("its thread is released", || pool.stats().running == 0).await;
    // Several drops panic, one after the other: a second panic during unwinding would abort the process.
    drop(stream);
    assert!(watch.dropped().is_some());
}

fn poll<T: Send + 'static>(stream: &mut onelane::offload::BlockingStream<T>) -> Poll<Option<()>> {
    Pin::new(stream).poll_next(&mut Context::from_waker(Waker::noop())).map(|item| item.map(|item| drop(item.unwrap())))
}

#[test]
fn panic_of_an_iterator_that_never_started_does_not_reach_the_code_that_drops_the_stream() {
    struct Bomb;
    impl Iterator for Bomb {
        type Item = ();
        fn next(&mut self) -> Option<()> {
            None
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the iterator is dropped");
        }
    }
    assert!(catch_unwind(|| drop(stream_blocking(Bomb))).is_ok());
}
