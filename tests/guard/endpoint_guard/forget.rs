//! Permits that are forgotten.

use std::sync::Arc;
use std::thread;

use onelane::guard::AcquireErrorKind;
use onelane::{EndpointGuard, KeyedGuard, Managed};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use crate::{SECOND, is_busy};

#[test]
fn forgotten_permit_is_not_available_again() {
    let guard = EndpointGuard::builder("forget").permits(2).build();
    guard.try_acquire().unwrap().forget();
    let permit = guard.try_acquire().unwrap();
    assert!(is_busy(&guard.try_acquire().unwrap_err()));
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    drop(permit);
    drop(assert_ready_ok!(caller.poll()));
    let stats = guard.stats();
    assert_eq!((stats.held, stats.forgotten, stats.granted), (1, 1, 3));
}

#[test]
fn drained_does_not_wait_for_a_forgotten_permit() {
    let guard = Arc::new(EndpointGuard::builder("forget").permits(3).build());
    Arc::clone(&guard).try_acquire_owned().unwrap().forget();
    assert_eq!(Arc::strong_count(&guard), 1, "the permit no longer shares the guard");
    let (late, last) = (guard.try_acquire().unwrap(), guard.try_acquire().unwrap());
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    guard.close();
    late.forget();
    assert!(!drained.is_woken(), "a permit is still held");
    drop(last);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
    assert_eq!(Managed::snapshot(&*guard).active(), 0, "nothing holds up the drain");
}

#[test]
fn forgetting_the_last_permit_drains_the_guard() {
    let guard = EndpointGuard::new("forget");
    let keyed = KeyedGuard::new("forget");
    let permits = (guard.try_acquire().unwrap(), keyed.try_acquire(7).unwrap());
    let mut drained = (task::spawn(guard.drained()), task::spawn(keyed.drained()));
    guard.close();
    keyed.close();
    assert_pending!(drained.0.poll());
    assert_pending!(drained.1.poll());
    permits.0.forget();
    permits.1.forget();
    assert!(drained.0.is_woken() && drained.1.is_woken());
    assert_ready!(drained.0.poll());
    assert_ready!(drained.1.poll());
    assert_eq!((keyed.stats().held, keyed.stats().forgotten, keyed.len()), (1, 1, 1));
}

#[test]
fn guard_whose_only_permit_was_forgotten_refuses_its_waiters_when_it_is_closed() {
    let guard = EndpointGuard::new("forget");
    guard.try_acquire().unwrap().forget();
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    guard.close();
    assert_eq!(assert_ready_err!(caller.poll()), AcquireErrorKind::Closed);
    assert_ready!(task::spawn(guard.drained()).poll());
}

#[test]
fn key_with_a_forgotten_permit_stays_in_use_and_others_are_unaffected() {
    let guard = KeyedGuard::builder("forget").max_keys(2).build();
    guard.try_acquire(1).unwrap().forget();
    assert!(is_busy(&guard.try_acquire(1).unwrap_err()));
    drop(guard.try_acquire(2).unwrap());
    assert_eq!(guard.len(), 1);
    let _other = guard.try_acquire(3).unwrap();
    assert_eq!(guard.try_acquire(4).unwrap_err(), AcquireErrorKind::TooManyKeys);
}

#[tokio::test(start_paused = true)]
async fn drain_that_waits_for_expired_grants_ends_in_spite_of_a_forgotten_permit() {
    let guard = EndpointGuard::builder("forget").permits(2).grant_timeout(SECOND).build();
    guard.try_acquire().unwrap().forget();
    let permit = guard.try_acquire().unwrap();
    let mut stalled = task::spawn(guard.acquire());
    assert_pending!(stalled.poll());
    drop(permit);
    guard.close();
    crate::in_time(guard.drained()).await;
    assert_eq!((guard.stats().held, guard.stats().expired), (1, 1));
}

#[test]
fn permits_that_are_forgotten_and_released_at_the_same_time_drain_the_guard() {
    for _ in 0..200 {
        let guard = Arc::new(EndpointGuard::builder("forget").permits(2).build());
        let permits = [0; 2].map(|_| Arc::clone(&guard).try_acquire_owned().unwrap());
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        let [forgotten, released] = permits;
        thread::scope(|scope| {
            scope.spawn(|| forgotten.forget());
            scope.spawn(|| drop(released));
            guard.close();
        });
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
    }
}
