//! Permits that are merged, split or forgotten, and owned permits that threads acquire.

use std::sync::Arc;
use std::thread;

use onelane::CapacityLimiter;
use onelane::offload::{LimiterError, SharedLimiter};
use support::waiting::spin_until;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};

use super::rules::{assert_idle, queued};

#[test]
fn merged_permit_releases_all_tokens_at_once() {
    let limiter = CapacityLimiter::with_reserve(4, 1);
    let mut all = limiter.try_acquire_many(3).unwrap();
    all.merge(limiter.try_acquire().unwrap());
    all.merge(limiter.try_acquire_many(0).unwrap());
    all.merge(limiter.try_acquire_reserved().unwrap());
    assert_eq!((all.tokens(), limiter.stats().borrowed, limiter.stats().reserve_borrowed), (5, 4, 1));
    let mut waiting = queued(&limiter, 4);
    drop(all);
    assert_eq!(assert_ready_ok!(waiting.poll()).tokens(), 4);
    drop(waiting);
    assert_idle(&limiter);
}

#[test]
fn only_permits_of_one_limiter_are_merged() {
    let (limiter, other) = (CapacityLimiter::new(1), CapacityLimiter::new(1));
    let mut permit = limiter.try_acquire().unwrap();
    let foreign = other.try_acquire().unwrap();
    let merged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| permit.merge(foreign)));
    assert!(merged.is_err());
    assert_eq!(permit.tokens(), 1);
    assert_idle(&other);
}

#[test]
fn split_moves_tokens_to_a_permit_of_their_own_and_those_of_the_reserve_last() {
    let limiter = Arc::new(CapacityLimiter::with_reserve(3, 1));
    let mut all = Arc::clone(&limiter).try_acquire_many_owned(3).unwrap();
    all.merge(Arc::clone(&limiter).try_acquire_reserved_owned().unwrap());
    assert!(all.split(5).is_none());
    let nothing = all.split(0).unwrap();
    assert_eq!((nothing.tokens(), all.tokens()), (0, 4));
    let two = all.split(2).unwrap();
    assert_eq!((two.tokens(), all.tokens()), (2, 2));
    drop(two);
    assert_eq!((limiter.stats().borrowed, limiter.stats().reserve_borrowed), (1, 1));
    let rest = all.split(2).unwrap();
    assert_eq!((rest.tokens(), all.tokens()), (2, 0));
    drop(all);
    assert_eq!((limiter.stats().borrowed, limiter.stats().reserve_borrowed), (1, 1));
    drop(rest);
    assert_idle(&limiter);
}

#[test]
fn forgotten_tokens_leave_the_limiter() {
    let limiter = CapacityLimiter::with_reserve(5, 2);
    limiter.try_acquire_many(2).unwrap().forget();
    assert_eq!((limiter.total(), limiter.stats().borrowed, limiter.stats().available), (3, 0, 3));
    let all = limiter.try_acquire_many(3).unwrap();
    limiter.try_acquire_reserved().unwrap().forget();
    assert_eq!((limiter.stats().reserve, limiter.stats().reserve_borrowed), (1, 0));
    drop(all);
    assert_eq!(limiter.update_total(|total| total + 2), 5);
    assert_idle(&limiter);
}

#[test]
fn caller_for_a_reserve_that_is_forgotten_waits_until_the_limiter_closes() {
    let limiter = CapacityLimiter::with_reserve(1, 1);
    let held = limiter.try_acquire().unwrap();
    limiter.try_acquire_reserved().unwrap().forget();
    let mut waiting = task::spawn(limiter.acquire_reserved());
    assert_pending!(waiting.poll());
    drop(held);
    assert!(!waiting.is_woken());
    drop(limiter.try_acquire_reserved().expect("an ordinary token is free"));
    limiter.close();
    assert_eq!(assert_ready!(waiting.poll()).err(), Some(LimiterError::Closed));
}

#[test]
fn more_tokens_than_the_total_are_forgotten_without_making_any_available() {
    let limiter = CapacityLimiter::new(4);
    let held = limiter.try_acquire_many(4).unwrap();
    let mut waiting = queued(&limiter, 1);
    limiter.set_total(1);
    held.forget();
    assert_eq!((limiter.total(), limiter.stats().borrowed, limiter.stats().available), (0, 0, 0));
    assert!(!waiting.is_woken());
    limiter.set_total(1);
    drop(assert_ready_ok!(waiting.poll()));
    assert_idle(&limiter);
}

#[test]
fn closed_limiter_is_drained_when_its_last_tokens_are_forgotten() {
    let limiter = CapacityLimiter::with_reserve(2, 1);
    let mut last = limiter.try_acquire_many(2).unwrap();
    last.merge(limiter.try_acquire_reserved().unwrap());
    let mut drained = task::spawn(limiter.drained());
    limiter.close();
    assert_pending!(drained.poll());
    last.forget();
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}

#[test]
fn caller_that_waits_for_the_reserve_gets_its_token_although_another_one_was_forgotten() {
    let limiter = CapacityLimiter::with_reserve(1, 2);
    let _ordinary = limiter.try_acquire().unwrap();
    let (forgotten, held) = (limiter.try_acquire_reserved().unwrap(), limiter.try_acquire_reserved().unwrap());
    let mut waiting = task::spawn(limiter.acquire_reserved());
    assert_pending!(waiting.poll());
    forgotten.forget();
    drop(held);
    drop(assert_ready_ok!(waiting.poll()));
}

#[test]
fn request_above_the_total_is_distinguished_from_a_busy_limiter() {
    let limiter = Arc::new(CapacityLimiter::new(3));
    assert_eq!(limiter.try_acquire_many(4).unwrap_err(), LimiterError::AboveTotal);
    assert_eq!(Arc::clone(&limiter).try_acquire_many_owned(4).unwrap_err(), LimiterError::AboveTotal);
    let held = limiter.try_acquire().unwrap();
    assert_eq!(limiter.try_acquire_many(3).unwrap_err(), LimiterError::WouldBlock);
    assert_eq!(limiter.try_acquire_many(4).unwrap_err(), LimiterError::AboveTotal);
    drop(held);
    // A total of zero is a pause. The tokens may be available after the pause.
    limiter.set_total(0);
    assert_eq!(limiter.try_acquire_many(2).unwrap_err(), LimiterError::WouldBlock);
    limiter.set_total(4);
    drop(limiter.try_acquire_many(4).unwrap());
    limiter.close();
    assert_eq!(limiter.try_acquire_many(5).unwrap_err(), LimiterError::Closed);
}

#[test]
fn threads_wait_for_permits_that_they_own() {
    let limiter = Arc::new(CapacityLimiter::with_reserve(2, 1));
    let held = limiter.try_acquire_many(2).unwrap();
    let reserved = limiter.try_acquire_reserved().unwrap();
    let acquire: [fn(SharedLimiter) -> _; 3] = [
        |limiter| limiter.acquire_owned_blocking(),
        |limiter| limiter.acquire_many_owned_blocking(2),
        |limiter| limiter.acquire_reserved_owned_blocking(),
    ];
    let threads = acquire.map(|acquire| {
        let limiter = SharedLimiter::from(&limiter);
        thread::spawn(move || acquire(limiter).map(|permit| permit.tokens()))
    });
    spin_until(|| (limiter.stats().waiting, limiter.stats().reserve_waiting) == (2, 1));
    drop((held, reserved));
    assert_eq!(threads.map(|thread| thread.join().unwrap()), [Ok(1), Ok(2), Ok(1)]);
    let permit = Arc::clone(&limiter).acquire_owned_blocking().unwrap();
    drop(Arc::clone(&limiter).acquire_reserved_owned_blocking().unwrap());
    drop(permit);
    drop(Arc::clone(&limiter).acquire_many_owned_blocking(2).unwrap());
    assert_idle(&limiter);
}
