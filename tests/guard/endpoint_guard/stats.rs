//! The counters.

use onelane::guard::GuardStats;
use onelane::{EndpointGuard, Queue};
use tokio::task::yield_now;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, task};

use support::leak;

use super::assert_idle;
use crate::SECOND;

#[tokio::test(start_paused = true)]
async fn each_counter_counts_only_its_own_event() {
    let guard = leak(
        EndpointGuard::builder("counted").queue(Queue::Bounded(2)).max_wait(10 * SECOND).grant_timeout(SECOND).build(),
    );
    let counters = || {
        let GuardStats { granted, queued, refused, timed_out, cancelled, expired, panicked, finished_detached, .. } =
            guard.stats();
        [granted, queued, refused, timed_out, cancelled, expired, panicked, finished_detached]
    };
    assert_eq!(counters(), [0; 8]);
    assert_eq!((&*guard.stats().name, guard.name(), guard.stats().permits), ("counted", "counted", 1));

    let permit = guard.acquire().await.unwrap();
    assert_eq!(counters(), [1, 0, 0, 0, 0, 0, 0, 0], "a permit acquired at once");
    assert!(guard.try_acquire().is_err());
    assert_eq!(counters(), [1, 0, 0, 0, 0, 0, 0, 0], "a `try_acquire` that finds the guard busy");
    let mut first = task::spawn(guard.acquire());
    let mut second = task::spawn(guard.acquire());
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(counters(), [1, 2, 0, 0, 0, 0, 0, 0], "two waiters");
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [1, 2, 1, 0, 0, 0, 0, 0], "a caller that finds the queue full");
    drop(second);
    assert_eq!(counters(), [1, 2, 1, 0, 1, 0, 0, 0], "a waiter that is cancelled");
    drop(permit);
    assert_eq!(counters(), [2, 2, 1, 0, 1, 0, 0, 0], "a permit granted to a waiter");
    drop(first);
    assert_eq!(counters(), [2, 2, 1, 0, 2, 0, 0, 0], "a granted waiter that is cancelled");

    let permit = guard.acquire().await.unwrap();
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [3, 3, 1, 1, 2, 0, 0, 0], "a waiter that times out");
    let mut late = task::spawn(guard.acquire());
    assert_pending!(late.poll());
    drop(permit);
    advance(SECOND).await;
    drop(guard.try_acquire().unwrap());
    assert_eq!(counters(), [5, 4, 1, 1, 2, 1, 0, 0], "a grant that expires, and its permit acquired by another caller");
    assert_ready_err!(late.poll());
    drop(late);
    assert_eq!(counters(), [5, 4, 1, 1, 2, 1, 0, 0], "reporting the expiry to the waiter counts nothing");

    assert!(tokio::spawn(guard.run(async { panic!("counted") })).await.is_err());
    assert_eq!(counters(), [6, 4, 1, 1, 2, 1, 1, 0], "a panic in a run");
    guard.run(async { guard.acquire().await.unwrap_err() }).await.unwrap();
    assert_eq!(counters(), [7, 4, 2, 1, 2, 1, 1, 0], "a caller that would wait for itself");
    assert!(guard.acquire_blocking().is_err());
    assert_eq!(counters(), [7, 4, 3, 1, 2, 1, 1, 0], "a caller that would block an async thread");

    let mut run = task::spawn(guard.run_to_completion(yield_now()));
    assert_pending!(run.poll());
    drop(run);
    assert_eq!(guard.stats().detached, 1);
    assert_eq!(counters(), [8, 4, 3, 1, 2, 1, 1, 0], "a run that is detached");
    guard.acquire().await.map(drop).unwrap();
    assert_eq!(counters(), [9, 5, 3, 1, 2, 1, 1, 1], "the detached run finishes");

    guard.close();
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [9, 5, 4, 1, 2, 1, 1, 1], "a caller after close");
    assert_eq!(guard.stats().overrun, 0);
    assert_idle(guard);
}
