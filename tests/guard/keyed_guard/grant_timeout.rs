//! Grants that are not taken in time.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::{KeyedGuard, Queue};
use tokio::time::{advance, timeout};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use support::leak;
use support::runtimes::current_thread;
use support::waiting::spin_until;

use super::{assert_idle, granted, queued};
use crate::{Colliding, SECOND, in_time, is_busy, is_full};

fn limited<K>() -> KeyedGuard<K> {
    KeyedGuard::builder("limited").grant_timeout(SECOND).build()
}

#[tokio::test(start_paused = true)]
async fn try_acquire_revokes_expired_grants_of_its_own_key_only() {
    let guard = Arc::new(limited());
    for (tried, owned) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut stalled = [0, 1].map(|key| granted(&guard, Colliding(key)));
        let key = Colliding(tried);
        advance(SECOND - Duration::from_millis(1)).await;
        assert!(is_busy(&guard.try_acquire(key).unwrap_err()));
        advance(Duration::from_millis(1)).await;
        if owned {
            drop(Arc::clone(&guard).try_acquire_owned(key).unwrap());
        } else {
            drop(guard.try_acquire(key).unwrap());
        }
        assert_eq!(assert_ready_err!(stalled[tried as usize].poll()), AcquireErrorKind::GrantExpired);
        drop(assert_ready_ok!(stalled[1 - tried as usize].poll()));
        assert_idle(&guard);
    }
    assert_eq!(guard.stats().expired, 4);
}

#[tokio::test(start_paused = true)]
async fn waiters_revoke_expired_grants_of_their_own_key_only() {
    let guard = limited();
    let mut first = granted(&guard, Colliding(1));
    let mut second = granted(&guard, Colliding(2));
    drop(in_time(guard.acquire(Colliding(1))).await.unwrap());
    assert_eq!(assert_ready_err!(first.poll()), AcquireErrorKind::GrantExpired);
    drop(assert_ready_ok!(second.poll()));
    assert_eq!(guard.stats().expired, 1);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn permit_taken_in_time_does_not_expire() {
    let guard = limited();
    let mut first = granted(&guard, 1);
    let mut second = queued(&guard, 1);
    advance(SECOND / 2).await;
    assert_pending!(second.poll());
    let permit = assert_ready_ok!(first.poll());
    // A permit that was taken can be held for any time.
    advance(10 * SECOND).await;
    assert_pending!(second.poll());
    drop(permit);
    drop(assert_ready_ok!(second.poll()));
    assert_eq!(guard.stats().expired, 0);
}

#[tokio::test(start_paused = true)]
async fn new_caller_is_admitted_when_all_waiters_are_stalled_and_the_queue_is_full() {
    let guard = KeyedGuard::builder("full").queue(Queue::Bounded(1)).grant_timeout(SECOND).build();
    let mut first = granted(&guard, 1);
    let mut second = queued(&guard, 1);
    assert!(is_full(&guard.acquire(1).await.unwrap_err()), "the grant has not expired yet");
    advance(SECOND).await;
    drop(in_time(guard.acquire(1)).await.unwrap());
    assert_eq!(assert_ready_err!(first.poll()), AcquireErrorKind::GrantExpired);
    assert_eq!(assert_ready_err!(second.poll()), AcquireErrorKind::GrantExpired);
    assert_eq!(guard.stats().expired, 2);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn untaken_grants_of_any_key_do_not_prevent_draining() {
    let guard = limited();
    let mut stalled: Vec<_> = (0..20).map(|key| granted(&guard, key)).collect();
    guard.close();
    timeout(10 * SECOND, guard.drained()).await.expect("the grants expire although no caller waits any more");
    for caller in &mut stalled {
        assert_eq!(assert_ready_err!(caller.poll()), AcquireErrorKind::GrantExpired);
    }
    assert_eq!(guard.stats().expired, 20);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn every_drained_future_is_woken_when_the_last_grant_expires() {
    let guard = limited();
    let _stalled = granted(&guard, 1);
    guard.close();
    let mut first = task::spawn(guard.drained());
    assert_pending!(first.poll());
    advance(SECOND / 2).await;
    let mut second = task::spawn(guard.drained());
    assert_pending!(second.poll());
    advance(SECOND / 2 + Duration::from_millis(2)).await;
    assert_ready!(first.poll());
    assert!(second.is_woken(), "woken at once, and not by its own timer");
    assert_ready!(second.poll());
}

#[tokio::test(start_paused = true)]
async fn grant_revoked_by_try_acquire_after_close_drains_the_guard() {
    let guard = limited();
    let mut caller = granted(&guard, 1);
    guard.close();
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    advance(2 * SECOND).await;
    assert_eq!(guard.try_acquire(1).unwrap_err(), AcquireErrorKind::Closed);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
    assert_eq!(assert_ready_err!(caller.poll()), AcquireErrorKind::GrantExpired);
}

#[test]
fn blocking_waiter_revokes_expired_grants_too() {
    // Real time, because a parked thread has no other clock.
    let guard = leak(KeyedGuard::builder("blocking").grant_timeout(Duration::from_millis(20)).build());
    let permit = guard.try_acquire(1).unwrap();
    let runtime = current_thread();
    let mut stalled = task::spawn(guard.acquire(1));
    {
        let _entered = runtime.enter();
        assert_pending!(stalled.poll());
    }
    drop(permit);
    let blocking = thread::spawn(|| guard.acquire_blocking(1).map(drop));
    spin_until(|| blocking.is_finished());
    assert_eq!(blocking.join().unwrap(), Ok(()));
    assert_eq!(assert_ready_err!(stalled.poll()), AcquireErrorKind::GrantExpired);
    assert_eq!(guard.stats().expired, 1);
    assert_idle(guard);
}
