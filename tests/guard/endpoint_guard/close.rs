//! Closing and draining.

use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;

use onelane::EndpointGuard;
use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use tokio::time::timeout;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use support::polling::PanickingWaker;
use support::waiting::spin_until;

use super::assert_idle;
use crate::SECOND;

#[test]
fn thousand_waiters_are_refused_and_the_holders_finish() {
    let guard = EndpointGuard::builder("closing").permits(2).build();
    let (first, second) = (guard.try_acquire().unwrap(), guard.try_acquire().unwrap());
    let mut callers: Vec<_> = (0..1_000).map(|_| task::spawn(guard.acquire())).collect();
    for caller in &mut callers {
        assert_pending!(caller.poll());
    }
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    thread::scope(|scope| {
        let blocking = scope.spawn(|| guard.acquire_blocking().map(drop));
        spin_until(|| guard.stats().waiting == 1_001);
        guard.close();
        assert_eq!(blocking.join().unwrap().unwrap_err(), AcquireErrorKind::Closed);
    });
    for caller in &mut callers {
        assert!(caller.is_woken());
        assert_eq!(assert_ready_err!(caller.poll()), AcquireErrorKind::Closed);
    }
    let GuardStats { held, waiting, closed, .. } = guard.stats();
    assert_eq!((held, waiting, closed), (2, 0, true));

    assert_pending!(drained.poll());
    drop(first);
    assert_pending!(drained.poll());
    drop(second);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn untaken_grant_does_not_prevent_draining() {
    let guard = EndpointGuard::builder("stalled").grant_timeout(SECOND).build();
    let permit = guard.try_acquire().unwrap();
    let mut stalled = task::spawn(guard.acquire());
    assert_pending!(stalled.poll());
    drop(permit);
    guard.close();
    timeout(10 * SECOND, guard.drained()).await.expect("the grant expires although no caller waits for the guard");
    assert_eq!(assert_ready_err!(stalled.poll()), AcquireErrorKind::GrantExpired);
    assert_idle(&guard);
}

#[test]
fn waiters_at_close_count_as_refused() {
    let guard = EndpointGuard::new("closing");
    let _permit = guard.try_acquire().unwrap();
    let mut callers = [0; 3].map(|_| task::spawn(guard.acquire()));
    callers.iter_mut().for_each(|caller| assert_pending!(caller.poll()));
    guard.close();
    callers.iter_mut().for_each(|caller| assert!(assert_ready!(caller.poll()).is_err()));
    assert_eq!((guard.stats().queued, guard.stats().refused), (3, 3));
}

#[test]
fn panicking_waker_does_not_keep_other_waiters_asleep() {
    let guard = EndpointGuard::new("closing");
    let _permit = guard.try_acquire().unwrap();
    let panics = Waker::from(Arc::new(PanickingWaker));
    let mut first = guard.acquire();
    assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&panics)).is_pending());
    let mut second = task::spawn(guard.acquire());
    assert_pending!(second.poll());
    assert!(catch_unwind(AssertUnwindSafe(|| guard.close())).is_err());
    assert!(second.is_woken());
    assert_eq!(assert_ready_err!(second.poll()), AcquireErrorKind::Closed);
}

#[test]
fn closing_twice_has_no_further_effect() {
    let guard = EndpointGuard::new("twice");
    let permit = guard.try_acquire().unwrap();
    guard.close();
    guard.close();
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    drop(permit);
    guard.close();
    assert_ready!(drained.poll());
    assert_ready!(task::spawn(guard.drained()).poll());
}

#[test]
fn later_callers_are_refused_even_if_the_guard_is_free() {
    let guard = Arc::new(EndpointGuard::new("closed"));
    guard.close();
    assert_eq!(assert_ready_err!(task::spawn(guard.acquire()).poll()), AcquireErrorKind::Closed);
    assert_eq!(assert_ready_err!(task::spawn(guard.run(ready(()))).poll()), AcquireErrorKind::Closed);
    assert_eq!(guard.acquire_blocking().unwrap_err(), AcquireErrorKind::Closed);
    assert_eq!(guard.try_acquire().unwrap_err(), AcquireErrorKind::Closed);
    assert_eq!(Arc::clone(&guard).try_acquire_owned().unwrap_err(), AcquireErrorKind::Closed);
    assert_eq!(guard.stats().refused, 3);
}

#[test]
fn acquiring_again_inside_a_closed_guard_fails_with_closed() {
    let guard = EndpointGuard::new("closed");
    let mut run = task::spawn(guard.run(async {
        guard.close();
        guard.acquire().await.map(drop)
    }));
    assert_eq!(assert_ready_ok!(run.poll()).unwrap_err(), AcquireErrorKind::Closed);
}

#[test]
fn open_guard_with_no_holder_is_not_drained() {
    let guard = EndpointGuard::new("open");
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    drop(guard.try_acquire().unwrap());
    assert_pending!(drained.poll());
    guard.close();
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}

#[test]
fn permit_granted_before_close_can_still_be_taken() {
    let guard = EndpointGuard::new("granted");
    let permit = guard.try_acquire().unwrap();
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    drop(permit);
    guard.close();
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    let permit = assert_ready_ok!(caller.poll());
    assert_pending!(drained.poll());
    drop(permit);
    assert_ready!(drained.poll());
}

#[test]
fn dropping_the_last_untaken_grant_drains_the_guard() {
    let guard = EndpointGuard::new("granted");
    let permit = guard.try_acquire().unwrap();
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    drop(permit);
    guard.close();
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    drop(caller);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}
