//! The number of permits that are held at the same time.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use onelane::{EndpointGuard, Order};
use tokio::task::yield_now;

use support::random::Random;
use support::runtimes::multi_thread;

use super::assert_idle;

struct Occupancy {
    now: AtomicUsize,
    most: AtomicUsize,
    entries: AtomicUsize,
}

impl Occupancy {
    fn enter(&self, permits: usize) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(now <= permits, "{now} callers hold a permit, but only {permits} permits");
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn exit(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.entries.fetch_add(1, Ordering::SeqCst);
    }
}

/// Uses one guard from tasks that wait, tasks that are cancelled at a random point, and threads that block.
fn storm(permits: usize, order: Order) {
    const TASKS: u64 = 32;
    const THREADS: u64 = 3;
    const ROUNDS: usize = 60;

    let guard = Arc::new(EndpointGuard::builder("storm").permits(permits).order(order).build());
    let occupancy = Arc::new(Occupancy { now: 0.into(), most: 0.into(), entries: 0.into() });
    let runtime = multi_thread(2);
    let tasks = (0..TASKS).map(|seed| {
        let (guard, occupancy) = (Arc::clone(&guard), Arc::clone(&occupancy));
        runtime.spawn(async move {
            let mut random = Random(seed + 1);
            for _ in 0..ROUNDS {
                let mut acquire = Some(Arc::clone(&guard).acquire_owned());
                let mut polls_left = random.below(2 * TASKS as usize);
                let permit = poll_fn(|cx| {
                    if polls_left == 0 {
                        acquire = None;
                    }
                    polls_left = polls_left.saturating_sub(1);
                    let Some(waiting) = &mut acquire else { return Poll::Ready(None) };
                    let poll = Pin::new(waiting).poll(cx);
                    // Polls again soon, so that `polls_left` can run out before a permit is granted.
                    cx.waker().wake_by_ref();
                    poll.map(|result| Some(result.unwrap()))
                });
                let Some(permit) = permit.await else { continue };
                occupancy.enter(permits);
                for _ in 0..random.below(4) {
                    yield_now().await;
                }
                occupancy.exit();
                drop(permit);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let permit = guard.acquire_blocking().unwrap();
                    occupancy.enter(permits);
                    thread::yield_now();
                    occupancy.exit();
                    drop(permit);
                }
            });
        }
    });
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });

    assert_idle(&guard);
    assert_eq!(occupancy.most.load(Ordering::SeqCst), permits, "all permits were in use at some time");
    let stats = guard.stats();
    let entries = occupancy.entries.load(Ordering::SeqCst) as u64;
    assert!(entries >= THREADS * ROUNDS as u64, "{entries}");
    // A permit granted to a waiter that was then cancelled is granted a second time.
    assert!((entries..=entries + stats.cancelled).contains(&stats.granted), "{entries} entries: {stats:?}");
    assert!(stats.cancelled > 0, "no caller was cancelled: {stats:?}");
    assert_eq!((stats.refused, stats.timed_out, stats.expired, stats.panicked), (0, 0, 0, 0));
}

#[test]
fn storm_never_admits_more_than_one() {
    storm(1, Order::Fifo);
    storm(1, Order::Lifo);
}

#[test]
fn storm_never_admits_more_than_two() {
    storm(2, Order::Fifo);
}

#[test]
fn storm_never_admits_more_than_five() {
    storm(5, Order::Fifo);
}
