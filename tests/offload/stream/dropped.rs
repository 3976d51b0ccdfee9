//! Streams that are dropped before their end.

use std::iter::once_with;
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
async fn dropped_before_it_is_polled_it_never_begins() {
    let watch = Watch::default();
    let pool = BlockingPool::new("pool");
    drop(pool.stream(Source::new(&watch)).max_items(3));
    assert_eq!((watch.made(), watch.dropped(), pool.statistics().started), (0, Some(thread::current().id()), 0));
}

#[tokio::test]
async fn dropped_while_an_item_is_made_it_stops_there() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let mut stream = stream_blocking(Source::new(&watch).wait_at(2, &gate));
    next(&mut stream).await;
    until("it comes to its gate", || watch.made() == 3).await;
    drop(stream);
    assert_eq!(watch.dropped(), None);
    gate.open();
    until("it is dropped", || watch.dropped().is_some()).await;
    assert_ne!(watch.dropped(), Some(thread::current().id()));
    assert_eq!(watch.made(), 3);
}

#[tokio::test]
async fn dropped_while_an_item_takes_long_the_iterator_is_told() {
    let (is_making, making) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    let mut stream = stream_blocking(once_with(move || {
        is_making.send(()).unwrap();
        while check_cancelled().is_ok() {
            thread::yield_now();
        }
        tell.send(()).unwrap();
    }));
    assert!(poll(&mut stream).is_pending());
    soon("it runs", making).await.unwrap();
    drop(stream);
    soon("it is told", told).await.unwrap();
}

#[tokio::test]
async fn dropped_while_the_buffer_is_full_it_is_dropped_here() {
    let watch = Watch::default();
    let pool = BlockingPool::new("pool");
    let mut stream = pool.stream(Source::new(&watch)).max_items(4);
    next(&mut stream).await;
    until("its thread is free", || pool.statistics().running == 0).await;
    assert_eq!((watch.made(), watch.dropped()), (4, None));
    drop(stream);
    assert_eq!((watch.made(), watch.dropped()), (4, Some(thread::current().id())));
}

#[tokio::test]
async fn dropped_while_it_waits_for_a_thread_it_never_begins() {
    let (watch, gate) = (Watch::default(), Gate::default());
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let wait = gate.wait();
    let busy = pool.task(move |_| wait.block()).start().unwrap();
    until("it runs", || pool.statistics().running == 1).await;
    let mut stream = pool.stream(Source::new(&watch));
    assert!(poll(&mut stream).is_pending());
    assert_eq!(pool.statistics().queued, 1);
    drop(stream);
    assert_eq!((watch.dropped(), pool.statistics().queued), (Some(thread::current().id()), 0));
    gate.open();
    soon("it ends", busy).await.unwrap();
    soon("it runs", pool.run(|| ())).await.unwrap();
    assert_eq!(watch.made(), 0);
}

#[tokio::test]
async fn items_that_nobody_took_are_dropped() {
    let item = Arc::new(());
    let items = std::iter::repeat_n(Arc::clone(&item), 1_000);
    let pool = BlockingPool::new("pool");
    let mut stream = pool.stream(items).max_items(100);
    next(&mut stream).await;
    until("its thread is free", || pool.statistics().running == 0).await;
    assert!(Arc::strong_count(&item) >= 100);
    drop(stream);
    assert_eq!(Arc::strong_count(&item), 1);
}

#[tokio::test]
async fn panics_of_what_is_dropped_end_there() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("an item does not want to go");
        }
    }
    let watch = Watch::default();
    let pool = BlockingPool::new("pool");
    let bombs = Source::new(&watch).panic_when_dropped().map(|_| Bomb);
    let mut stream = pool.stream(bombs).max_items(64);
    let _ = std::mem::ManuallyDrop::new(next(&mut stream).await);
    until("its thread is free", || pool.statistics().running == 0).await;
    // Several of them, while none unwinds: more than one panic at a time would end the process.
    drop(stream);
    assert!(watch.dropped().is_some());
}

fn poll<T: Send + 'static>(stream: &mut onelane::BlockingStream<T>) -> Poll<Option<()>> {
    Pin::new(stream).poll_next(&mut Context::from_waker(Waker::noop())).map(|item| item.map(|item| drop(item.unwrap())))
}
