//! Under `Order::Lifo`, a full queue evicts the waiter that would be served last.

use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::{EndpointGuard, Order, Queue};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use support::waiting::spin_until;

use super::assert_idle;
use crate::{SECOND, is_busy, is_full};

fn lifo(bound: usize) -> EndpointGuard {
    EndpointGuard::builder("lifo").order(Order::Lifo).queue(Queue::Bounded(bound)).build()
}

#[tokio::test(start_paused = true)]
async fn newest_caller_takes_the_place_of_the_oldest_waiter() {
    let guard = lifo(2);
    let permit = guard.try_acquire().unwrap();
    let mut callers: Vec<_> = (0..4).map(|_| task::spawn(guard.acquire())).collect();
    for caller in &mut callers[..2] {
        assert_pending!(caller.poll());
        advance(SECOND).await;
    }
    assert!(!callers[0].is_woken());
    for (evicted, newest) in [(0, 2), (1, 3)] {
        assert_pending!(callers[newest].poll());
        assert!(callers[evicted].is_woken(), "an evicted caller is woken at once");
        assert_eq!((guard.stats().waiting, guard.stats().refused), (2, evicted as u64 + 1));
    }
    // The first caller has waited for two seconds, and the second caller for one second.
    for (caller, waited) in callers[..2].iter_mut().zip([2 * SECOND, SECOND]) {
        let error = assert_ready_err!(caller.poll());
        assert!(is_full(&error) && error.kind().is_overload());
        assert_eq!((error.name(), error.waited()), (Some("lifo"), Some(waited)));
        let text = format!("evicted from the full queue by a newer caller after {waited:?}");
        assert!(error.to_string().contains(&text), "{error}");
    }
    drop(permit);
    for caller in callers[2..].iter_mut().rev() {
        drop(assert_ready_ok!(caller.poll()));
    }
    let stats = guard.stats();
    assert_eq!((stats.granted, stats.queued, stats.refused, stats.cancelled), (3, 4, 2, 0));
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn evicted_caller_gets_an_estimate_of_when_to_retry() {
    let guard = lifo(2);
    for _ in 0..2 {
        let _permit = guard.try_acquire().unwrap();
        assert!(guard.try_acquire().is_err());
        advance(SECOND).await;
    }
    let _permit = guard.try_acquire().unwrap();
    let mut callers: Vec<_> = (0..3).map(|_| task::spawn(guard.acquire())).collect();
    for caller in &mut callers {
        assert_pending!(caller.poll());
    }
    let error = assert_ready_err!(callers[0].poll());
    assert_eq!(error.retry_after(), Some(3 * SECOND), "two waiters are ahead");
}

#[test]
fn fifo_refuses_the_newest_caller() {
    let guard = EndpointGuard::builder("fifo").queue(Queue::Bounded(1)).build();
    let _permit = guard.try_acquire().unwrap();
    let mut oldest = task::spawn(guard.acquire());
    assert_pending!(oldest.poll());
    let error = assert_ready_err!(task::spawn(guard.acquire()).poll());
    assert!(is_full(&error) && error.waited().is_none());
    assert!(!oldest.is_woken());
}

#[test]
fn guard_without_a_queue_has_no_waiter_to_evict() {
    let guard = EndpointGuard::builder("reject").order(Order::Lifo).queue(Queue::Reject).build();
    let permit = guard.try_acquire().unwrap();
    assert!(is_busy(&assert_ready_err!(task::spawn(guard.acquire()).poll())));
    drop(permit);
    assert_idle(&guard);
}

#[test]
fn granted_caller_is_not_evicted() {
    let guard = lifo(1);
    let permit = guard.try_acquire().unwrap();
    let mut granted = task::spawn(guard.acquire());
    assert_pending!(granted.poll());
    drop(permit);
    let mut others = [task::spawn(guard.acquire()), task::spawn(guard.acquire())];
    assert_pending!(others[0].poll());
    assert_pending!(others[1].poll());
    drop(assert_ready_ok!(granted.poll()));
    assert!(is_full(&assert_ready_err!(others[0].poll())));
    drop(assert_ready_ok!(others[1].poll()));
    assert_idle(&guard);
}

#[test]
fn evicted_caller_that_is_dropped_counts_as_refused_and_not_as_cancelled() {
    let guard = lifo(1);
    let permit = guard.try_acquire().unwrap();
    let mut oldest = task::spawn(guard.acquire());
    assert_pending!(oldest.poll());
    let mut newest = task::spawn(guard.acquire());
    assert_pending!(newest.poll());
    drop(oldest);
    assert_eq!((guard.stats().refused, guard.stats().cancelled, guard.stats().waiting), (1, 0, 1));
    drop(permit);
    drop(assert_ready_ok!(newest.poll()));
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn caller_evicted_just_before_its_time_limit_is_refused_as_evicted() {
    let guard = EndpointGuard::builder("lifo").order(Order::Lifo).queue(Queue::Bounded(1)).max_wait(2 * SECOND).build();
    let _permit = guard.try_acquire().unwrap();
    let mut oldest = task::spawn(guard.acquire());
    assert_pending!(oldest.poll());
    advance(2 * SECOND - Duration::from_millis(1)).await;
    let mut newest = task::spawn(guard.acquire());
    assert_pending!(newest.poll());
    advance(Duration::from_millis(2)).await;
    let error = assert_ready_err!(oldest.poll());
    assert_eq!((error.kind(), guard.stats().timed_out), (AcquireErrorKind::QueueFull, 0));
    assert!(error.waited() >= Some(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn expired_grant_makes_room_before_a_waiter_is_evicted() {
    let limit = SECOND;
    let builder = EndpointGuard::builder("lifo").order(Order::Lifo).queue(Queue::Bounded(1));
    let guard = builder.grant_timeout(limit).build();
    let permit = guard.try_acquire().unwrap();
    let mut stalled = task::spawn(guard.acquire());
    assert_pending!(stalled.poll());
    drop(permit);
    let mut waiting = task::spawn(guard.acquire());
    assert_pending!(waiting.poll());
    advance(2 * limit).await;
    // The grant of the stalled caller has expired. The permit goes to the waiter, which makes room in the queue for the
    // newest caller.
    let mut newest = task::spawn(guard.acquire());
    assert_pending!(newest.poll());
    drop(assert_ready_ok!(waiting.poll()));
    assert_eq!(assert_ready_err!(stalled.poll()), AcquireErrorKind::GrantExpired);
    drop(assert_ready_ok!(newest.poll()));
    assert_eq!(guard.stats().refused, 0);
}

#[test]
fn blocking_callers_are_evicted_too() {
    let guard = lifo(1);
    let permit = guard.try_acquire().unwrap();
    thread::scope(|scope| {
        let oldest = scope.spawn(|| guard.acquire_blocking().map(drop));
        spin_until(|| guard.stats().waiting == 1);
        let mut newest = task::spawn(guard.acquire());
        assert_pending!(newest.poll());
        let error = oldest.join().unwrap().unwrap_err();
        assert!(is_full(&error) && error.waited().is_some());
        drop(permit);
        drop(assert_ready_ok!(newest.poll()));
    });
    assert_idle(&guard);
}

#[test]
fn concurrent_callers_keep_the_queue_at_its_bound() {
    const THREADS: usize = 4;
    const EACH: usize = 200;
    let guard = Arc::new(lifo(7));
    let permit = guard.try_acquire().unwrap();
    let callers: Vec<_> = thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| {
            scope.spawn(|| {
                (0..EACH)
                    .map(|_| {
                        let mut caller = task::spawn(Arc::clone(&guard).acquire_owned());
                        assert_pending!(caller.poll());
                        caller
                    })
                    .collect::<Vec<_>>()
            })
        });
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((guard.stats().waiting, guard.stats().refused), (7, (THREADS * EACH - 7) as u64));
    let mut waiting = 0;
    for mut caller in callers {
        match caller.poll() {
            Poll::Pending => waiting += 1,
            Poll::Ready(result) => assert!(is_full(&result.unwrap_err())),
        }
    }
    assert_eq!(waiting, 7);
    drop(permit);
    assert_idle(&guard);
}
