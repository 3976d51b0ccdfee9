//! How much is made ahead, and what that leaves to others.

use std::time::Duration;

use futures::future::join_all;
use onelane::offload::BlockingPool;
use onelane::{run_blocking, stream_blocking};
use tokio::time::sleep;

use crate::stream::source::{Source, Watch, next};
use support::waiting::{Gate, soon, until};

#[tokio::test]
async fn slow_consumer_stays_within_the_bound_of_items() {
    for max_items in [1, 2, 3, 10, 100, 2_000] {
        let watch = Watch::default();
        let mut stream = stream_blocking(Source::new(&watch)).max_items(max_items);
        for taken in 0..300 {
            assert_eq!(next(&mut stream).await, taken);
            let made = watch.made();
            // The one that was given out just now counts until the next is asked for.
            assert!(made <= taken + max_items, "{made} made, {taken} taken, {max_items}");
        }
        // More than a half is made when the consumer comes to a stop, of which a quarter may be the chunk that it is in.
        until("much is made ahead", || watch.made() >= 300 + max_items / 4).await;
        // Real: it shows what does not happen. Where it fails to show it, the test passes.
        sleep(Duration::from_millis(5)).await;
        assert!(watch.made() <= 299 + max_items);
    }
}

#[tokio::test]
async fn slow_consumer_stays_within_the_bound_of_bytes() {
    // The third one is beyond it.
    for (size, max_made) in [(1_000, 10), (999, 11), (4_000, 3), (50_000, 1), (usize::MAX, 1)] {
        let watch = Watch::default();
        let mut stream = stream_blocking(Source::new(&watch)).max_bytes(10_000, move |_| size);
        for taken in 0..50 {
            assert_eq!(next(&mut stream).await, taken);
            let made = watch.made();
            assert!(made <= taken + max_made, "{made} made, {taken} taken, {size}");
        }
        until("much is made ahead", || watch.made() >= 50 + max_made / 4).await;
    }
}

#[tokio::test]
async fn slow_readers_leave_their_threads_to_others() {
    for threads in [1, 2, 40] {
        let pool = BlockingPool::builder("pool").max_running(threads).build();
        let watches: Vec<Watch> = (0..threads).map(|_| Watch::default()).collect();
        let mut streams: Vec<_> = watches.iter().map(|watch| pool.stream(Source::new(watch)).max_items(100)).collect();
        soon("all begin", join_all(streams.iter_mut().map(next))).await;
        // As many tasks as there are threads, at once: none of them is pinned by a stream.
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
        until("all run", || all.made() == threads).await;
        gate.open();
        soon("they end", join_all(others)).await;
        // And they go on.
        for stream in &mut streams {
            for item in 1..500 {
                assert_eq!(next(stream).await, item);
            }
        }
    }
}

#[tokio::test]
async fn forty_slow_readers_of_the_default_pool_dont_stop_the_next_call() {
    let watch = Watch::default();
    let mut streams: Vec<_> = (0..40).map(|_| stream_blocking(Source::new(&watch))).collect();
    soon("all begin", join_all(streams.iter_mut().map(next))).await;
    assert_eq!(soon("it runs", run_blocking(|| 7)).await, Ok(7));
}
