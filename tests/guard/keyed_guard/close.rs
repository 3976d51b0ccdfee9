//! Closing and draining.

use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Waker};
use std::thread;

use onelane::KeyedGuard;
use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use support::polling::PanickingWaker;
use support::waiting::spin_until;

use super::{assert_idle, granted, queued};

#[test]
fn waiters_of_every_key_are_refused_and_the_holders_finish() {
    const KEYS: u32 = 50;
    let guard = KeyedGuard::builder("closing").permits(2).build();
    let mut permits: Vec<_> = (0..2 * KEYS).map(|i| guard.try_acquire(i % KEYS).unwrap()).collect();
    let mut callers: Vec<_> = (0..10 * KEYS).map(|i| queued(&guard, i % KEYS)).collect();
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    thread::scope(|scope| {
        let blocking = scope.spawn(|| guard.acquire_blocking(7).map(drop));
        spin_until(|| guard.stats().waiting == 10 * KEYS as usize + 1);
        guard.close();
        assert_eq!(blocking.join().unwrap().unwrap_err(), AcquireErrorKind::Closed);
    });
    let GuardStats { held, waiting, closed, .. } = guard.stats();
    assert_eq!((held, waiting, closed), (2 * KEYS as usize, 0, true));
    for caller in &mut callers {
        assert!(caller.is_woken());
        assert_eq!(assert_ready_err!(caller.poll()), AcquireErrorKind::Closed);
    }
    assert_eq!(guard.stats().refused, u64::from(10 * KEYS) + 1);

    while let Some(permit) = permits.pop() {
        assert!(!drained.is_woken());
        assert_pending!(drained.poll());
        drop(permit);
    }
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
    assert_idle(&guard);
}

#[test]
fn key_is_removed_when_the_last_refused_waiter_is_gone() {
    let guard = KeyedGuard::new("closing");
    let permit = guard.try_acquire(1).unwrap();
    let [mut polled, dropped] = [0; 2].map(|_| queued(&guard, 1));
    guard.close();
    drop(permit);
    assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (1, 0, 0));
    assert_eq!(assert_ready_err!(polled.poll()), AcquireErrorKind::Closed);
    assert_eq!(guard.len(), 1);
    drop(dropped);
    assert_idle(&guard);
    assert_eq!(guard.stats().cancelled, 0, "the waiter was refused before it was dropped");
}

#[test]
fn later_callers_are_refused_for_existing_and_new_keys() {
    let guard = Arc::new(KeyedGuard::builder("closed").permits(2).build());
    let _permit = guard.try_acquire(1).unwrap();
    guard.close();
    for key in [1, 2] {
        assert_eq!(assert_ready_err!(task::spawn(guard.acquire(key)).poll()), AcquireErrorKind::Closed);
        assert_eq!(assert_ready_err!(task::spawn(guard.run(key, ready(()))).poll()), AcquireErrorKind::Closed);
        assert_eq!(assert_ready_err!(task::spawn(guard.acquire_all([key])).poll()), AcquireErrorKind::Closed);
        assert_eq!(guard.acquire_blocking(key).unwrap_err(), AcquireErrorKind::Closed);
        assert_eq!(guard.try_acquire(key).unwrap_err(), AcquireErrorKind::Closed);
        assert_eq!(Arc::clone(&guard).try_acquire_owned(key).unwrap_err(), AcquireErrorKind::Closed);
    }
    assert_eq!((guard.stats().refused, guard.len()), (8, 1));
}

#[test]
fn unused_guard_that_is_closed_is_drained_and_refuses() {
    let guard = KeyedGuard::new("unused");
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    assert!(!guard.stats().closed);
    guard.close();
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
    assert_ready!(task::spawn(guard.drained()).poll());
    assert!(guard.stats().closed);
    assert_eq!(guard.try_acquire(1).unwrap_err(), AcquireErrorKind::Closed);
    assert_eq!(assert_ready_err!(task::spawn(guard.acquire(1)).poll()), AcquireErrorKind::Closed);
    assert_idle(&guard);
}

#[test]
fn open_guard_without_keys_is_not_drained() {
    let guard = KeyedGuard::new("open");
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    drop(guard.try_acquire(1).unwrap());
    assert_pending!(drained.poll());
    guard.close();
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}

#[test]
fn closing_twice_has_no_further_effect() {
    let guard = KeyedGuard::new("twice");
    let permit = guard.try_acquire(1).unwrap();
    guard.close();
    guard.close();
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    drop(permit);
    guard.close();
    assert_ready!(drained.poll());
}

#[test]
fn permit_granted_before_close_can_still_be_taken() {
    let guard = KeyedGuard::new("granted");
    let [mut taken, dropped] = [1, 2].map(|key| granted(&guard, key));
    guard.close();
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    let permit = assert_ready_ok!(taken.poll());
    drop(permit);
    assert_pending!(drained.poll());
    drop(dropped);
    assert!(drained.is_woken(), "the dropped caller was the last one");
    assert_ready!(drained.poll());
    assert_idle(&guard);
}

#[test]
fn concurrent_releases_notify_drained() {
    for _ in 0..200 {
        let guard = KeyedGuard::new("at once");
        let barrier = Barrier::new(4);
        let permits = [1, 2, 3, 4].map(|key| guard.try_acquire(key).unwrap());
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        thread::scope(|scope| {
            for permit in permits {
                scope.spawn(|| {
                    barrier.wait();
                    drop(permit);
                });
            }
        });
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
    }
}

#[test]
fn close_concurrent_with_releases_notifies_drained() {
    for _ in 0..200 {
        let guard = KeyedGuard::new("meanwhile");
        let barrier = Barrier::new(3);
        let permits = [1, 2].map(|key| guard.try_acquire(key).unwrap());
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        thread::scope(|scope| {
            for permit in permits {
                scope.spawn(|| {
                    barrier.wait();
                    drop(permit);
                });
            }
            barrier.wait();
            guard.close();
        });
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
    }
}

#[test]
fn panicking_waker_does_not_keep_waiters_of_other_keys_asleep() {
    const KEYS: u32 = 50;
    let guard = KeyedGuard::new("closing");
    let _permits: Vec<_> = (0..KEYS).map(|key| guard.try_acquire(key).unwrap()).collect();
    let panics = Waker::from(Arc::new(PanickingWaker));
    let mut first = guard.acquire(0);
    assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&panics)).is_pending());
    let mut others: Vec<_> = (0..KEYS).map(|key| queued(&guard, key)).collect();
    assert!(catch_unwind(AssertUnwindSafe(|| guard.close())).is_err());
    for other in &mut others {
        assert!(other.is_woken());
        assert_eq!(assert_ready_err!(other.poll()), AcquireErrorKind::Closed);
    }
    for new in KEYS..2 * KEYS {
        assert_eq!(guard.try_acquire(new).unwrap_err(), AcquireErrorKind::Closed);
    }
}
