//! Under `Order::Lifo`, the full queue of a key evicts the waiter that would be served last.

use onelane::{KeyedGuard, Order, Queue};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use super::{assert_idle, queued};
use crate::{SECOND, is_full};

fn lifo() -> KeyedGuard<u32> {
    KeyedGuard::builder("lifo").order(Order::Lifo).queue(Queue::Bounded(1)).build()
}

#[tokio::test(start_paused = true)]
async fn newest_caller_of_a_key_takes_the_place_of_its_oldest_waiter() {
    let guard = lifo();
    for _ in 0..2 {
        let _permit = guard.try_acquire(1).unwrap();
        assert!(guard.try_acquire(1).is_err());
        advance(SECOND).await;
    }
    let permits = [1, 2].map(|key| guard.try_acquire(key).unwrap());
    let (mut oldest, mut other) = (queued(&guard, 1), queued(&guard, 2));
    advance(SECOND).await;
    let mut newest = queued(&guard, 1);
    assert!(oldest.is_woken() && !other.is_woken(), "a key evicts no waiter of another key");
    assert_eq!((guard.stats().waiting, guard.stats().refused), (2, 1));
    let error = assert_ready_err!(oldest.poll());
    assert!(is_full(&error));
    assert_eq!((error.name(), error.waited()), (Some("lifo"), Some(SECOND)));
    assert_eq!(error.retry_after(), Some(2 * SECOND), "the newest caller is ahead");
    drop(permits);
    drop(assert_ready_ok!(newest.poll()));
    drop(assert_ready_ok!(other.poll()));
    assert_eq!((guard.stats().refused, guard.stats().cancelled), (1, 0));
    assert_idle(&guard);
}

#[test]
fn key_is_removed_after_its_evicted_caller() {
    let guard = lifo();
    let permit = guard.try_acquire(1).unwrap();
    let evicted = queued(&guard, 1);
    let newest = queued(&guard, 1);
    drop((permit, newest));
    assert_eq!(guard.len(), 1, "the evicted caller has not received its outcome");
    drop(evicted);
    assert_eq!((guard.stats().refused, guard.stats().cancelled), (1, 1));
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn caller_of_several_keys_that_is_evicted_reports_all_its_waits_and_releases_its_permits() {
    let guard = lifo();
    let (first, _second) = (guard.try_acquire(1).unwrap(), guard.try_acquire(2).unwrap());
    let mut all = task::spawn(guard.acquire_all([1, 2]));
    assert_pending!(all.poll());
    advance(SECOND).await;
    drop(first);
    assert_pending!(all.poll());
    advance(SECOND).await;
    let _newest = queued(&guard, 2);
    assert!(all.is_woken());
    let error = assert_ready_err!(all.poll());
    assert!(is_full(&error));
    assert_eq!(error.waited(), Some(2 * SECOND));
    assert!(guard.try_acquire(1).is_ok(), "the permit of the first key was released");
}
