//! A future waits for the guard, and its owner stops polling it while it waits for the same guard elsewhere. This
//! deadlock is described in Oxide's RFD 609.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use onelane::{AcquireError, EndpointGuard, Order, Queue};
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use support::leak;
use support::polling::PanickingWaker;
use support::runtimes::current_thread;
use support::waiting::spin_until;

use super::assert_idle;
use crate::{SECOND, in_time, is_busy, is_full};

/// The program from the RFD. Returns the output of the stalled future, which is polled again at the end.
async fn program(guard: &Arc<EndpointGuard>) -> Result<(), AcquireError> {
    let background = tokio::spawn({
        let guard = Arc::clone(guard);
        async move {
            let _permit = guard.acquire_owned().await.unwrap();
            sleep(5 * SECOND).await;
        }
    });
    yield_now().await;

    let mut future1 = pin!(async { guard.acquire().await.map(drop) });
    tokio::select! {
        _ = &mut future1 => panic!("the guard is held"),
        () = sleep(SECOND / 2) => {}
    }
    drop(guard.acquire().await.unwrap());
    background.await.unwrap();
    future1.await
}

#[tokio::test(start_paused = true)]
async fn hangs_without_a_grant_timeout() {
    let guard = Arc::new(EndpointGuard::new("futurelock"));
    assert!(timeout(1_000 * SECOND, program(&guard)).await.is_err());
    assert_idle(&guard);
}

/// Returns a waiter that was granted a permit and is no longer polled.
async fn stalled(guard: &EndpointGuard) -> task::Spawn<onelane::guard::futures::Acquire<'_>> {
    let permit = guard.acquire().await.unwrap();
    let mut stalled = task::spawn(guard.acquire());
    assert_pending!(stalled.poll());
    drop(permit);
    stalled
}

#[test]
fn blocking_waiter_leaves_the_queue_if_revoking_a_grant_panics() {
    // Real time, because a parked thread has no other clock.
    let limit = Duration::from_millis(20);
    let guard = leak(EndpointGuard::builder("panics").grant_timeout(limit).order(Order::Lifo).build());
    let runtime = current_thread();
    let _entered = runtime.enter();
    let permit = guard.try_acquire().unwrap();
    let mut stalled = task::spawn(guard.acquire());
    assert_pending!(stalled.poll());
    drop(permit);
    let blocking = thread::spawn(|| guard.acquire_blocking().map(drop));
    spin_until(|| guard.stats().waiting == 1);
    // The thread revokes the grant. The permit then goes to the newest waiter, whose waker panics.
    let panics = Waker::from(Arc::new(PanickingWaker));
    let mut next = guard.acquire();
    assert!(Pin::new(&mut next).poll(&mut Context::from_waker(&panics)).is_pending());
    assert!(blocking.join().is_err());
    drop((next, stalled));
    assert_idle(guard);
}

#[tokio::test(start_paused = true)]
async fn ends_for_callers_whose_max_wait_equals_the_grant_timeout() {
    let guard = EndpointGuard::builder("impatient").grant_timeout(2 * SECOND).max_wait(2 * SECOND).build();
    let _stalled = stalled(&guard).await;
    assert!(guard.acquire().await.map_or_else(|error| error == AcquireErrorKind::Timeout, |_| true));
    drop(guard.acquire().await.expect("two seconds have passed since the permit was granted"));
    assert_eq!(guard.stats().expired, 1);
}

#[tokio::test(start_paused = true)]
async fn ends_for_callers_after_one_was_cancelled_before_the_grant_expired() {
    let guard = EndpointGuard::builder("cancelled").grant_timeout(2 * SECOND).build();
    let _stalled = stalled(&guard).await;
    assert!(timeout(SECOND + SECOND / 2, guard.acquire()).await.is_err());
    let permit = timeout(SECOND, guard.acquire()).await.expect("half a second remained of the grant timeout");
    drop(permit.unwrap());
}

#[tokio::test(start_paused = true)]
async fn ends_with_a_grant_timeout() {
    let guard = Arc::new(EndpointGuard::builder("futurelock").grant_timeout(SECOND).build());
    let start = Instant::now();
    assert_eq!(in_time(program(&guard)).await.unwrap_err(), AcquireErrorKind::GrantExpired);
    // Five seconds for the background task, one for the grant that is not taken.
    let fine = Duration::from_millis(5);
    assert!((6 * SECOND..6 * SECOND + fine).contains(&start.elapsed()), "{:?}", start.elapsed());
    let GuardStats { expired, granted, queued, cancelled, .. } = guard.stats();
    assert_eq!((expired, granted, queued, cancelled), (1, 3, 2, 0));
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn ends_when_all_waiters_are_stalled_and_the_queue_is_full() {
    let guard = EndpointGuard::builder("full").queue(Queue::Bounded(1)).grant_timeout(SECOND).build();
    let permit = guard.try_acquire().unwrap();
    let mut granted = task::spawn(guard.acquire());
    assert_pending!(granted.poll());
    drop(permit);
    let mut queued = task::spawn(guard.acquire());
    assert_pending!(queued.poll());
    assert!(is_full(&guard.acquire().await.unwrap_err()), "the grant has not expired yet");
    advance(SECOND).await;
    // The new caller revokes the expired grant, waits behind the other waiter, and revokes that one's grant, too.
    drop(in_time(guard.acquire()).await.unwrap());
    assert_eq!(assert_ready_err!(granted.poll()), AcquireErrorKind::GrantExpired);
    assert_eq!(assert_ready_err!(queued.poll()), AcquireErrorKind::GrantExpired);
    assert_eq!(guard.stats().expired, 2);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn ends_for_try_acquire() {
    let guard = Arc::new(EndpointGuard::builder("try").grant_timeout(SECOND).build());
    for owned in [false, true] {
        let permit = guard.try_acquire().unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        drop(permit);
        advance(SECOND - Duration::from_millis(1)).await;
        assert!(is_busy(&guard.try_acquire().unwrap_err()));
        advance(Duration::from_millis(1)).await;
        if owned {
            drop(Arc::clone(&guard).try_acquire_owned().unwrap());
        } else {
            drop(guard.try_acquire().unwrap());
        }
        assert_eq!(assert_ready_err!(caller.poll()), AcquireErrorKind::GrantExpired);
        assert_idle(&guard);
    }
    assert_eq!(guard.stats().expired, 2);
}

#[tokio::test(start_paused = true)]
async fn permit_taken_in_time_does_not_expire() {
    let guard = EndpointGuard::builder("in time").grant_timeout(SECOND).build();
    let permit = guard.try_acquire().unwrap();
    let mut first = task::spawn(guard.acquire());
    let mut second = task::spawn(guard.acquire());
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    advance(10 * SECOND).await;
    drop(permit);
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
async fn grant_that_expires_after_close_drains_the_guard() {
    let guard = EndpointGuard::builder("closing").grant_timeout(SECOND).build();
    let permit = guard.try_acquire().unwrap();
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    drop(permit);
    guard.close();
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    advance(2 * SECOND).await;
    assert_eq!(guard.try_acquire().unwrap_err(), AcquireErrorKind::Closed);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
    assert_eq!(assert_ready_err!(caller.poll()), AcquireErrorKind::GrantExpired);
}

#[test]
fn blocking_waiter_revokes_expired_grants_too() {
    // Real time, because a parked thread has no other clock.
    let guard = leak(EndpointGuard::builder("blocking").grant_timeout(Duration::from_millis(20)).build());
    let permit = guard.try_acquire().unwrap();
    let runtime = current_thread();
    let mut stalled = task::spawn(guard.acquire());
    {
        let _entered = runtime.enter();
        assert_pending!(stalled.poll());
    }
    drop(permit);
    let blocking = thread::spawn(|| guard.acquire_blocking().map(drop));
    spin_until(|| blocking.is_finished());
    assert_eq!(blocking.join().unwrap(), Ok(()));
    assert_eq!(assert_ready_err!(stalled.poll()), AcquireErrorKind::GrantExpired);
    assert_eq!(guard.stats().expired, 1);
    assert_idle(guard);
}
