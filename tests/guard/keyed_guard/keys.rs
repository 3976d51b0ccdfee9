//! A key exists from its first caller to its last.

use onelane::KeyedGuard;
use onelane::guard::AcquireErrorKind;
use tokio::time::advance;
use tokio_test::{assert_ready_err, assert_ready_ok};

use support::runtimes::paused;

use super::{assert_idle, granted, queued};
use crate::SECOND;

#[test]
fn key_exists_while_it_is_held_or_waited_for() {
    let guard = KeyedGuard::new("there");
    assert!(guard.is_empty());
    let unpolled = guard.acquire(1);
    assert!(guard.is_empty(), "no caller was polled yet");
    drop(unpolled);
    let first = guard.try_acquire(1).unwrap();
    assert!(!guard.is_empty());
    let waiter = queued(&guard, 1);
    let other = guard.try_acquire(2).unwrap();
    assert_eq!(guard.len(), 2, "a key with several callers counts once");
    drop(first);
    assert_eq!(guard.len(), 2, "a granted permit is not taken yet");
    drop(waiter);
    assert_eq!(guard.len(), 1);
    drop(other);
    assert_idle(&guard);
}

#[test]
fn key_that_is_used_again_starts_fresh() {
    let guard = KeyedGuard::new("again");
    for round in 1..=1_000_u64 {
        let mut second = granted(&guard, "again");
        drop(assert_ready_ok!(second.poll()));
        assert_eq!(guard.stats().granted, 2 * round);
        assert_idle(&guard);
    }
}

#[test]
fn key_exists_until_the_waiter_of_an_expired_grant_is_polled() {
    let runtime = paused();
    runtime.block_on(async {
        let guard = KeyedGuard::builder("late").grant_timeout(SECOND).build();
        let mut late = granted(&guard, 1);
        advance(SECOND).await;
        drop(guard.try_acquire(1).unwrap());
        assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (1, 0, 0));
        assert_eq!(assert_ready_err!(late.poll()), AcquireErrorKind::GrantExpired);
        assert_idle(&guard);
    });
}
