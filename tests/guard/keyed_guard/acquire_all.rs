//! Acquiring several keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::{KeyedGuard, Queue};
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use support::leak;
use support::random::Random;
use support::runtimes::{current_thread, multi_thread};

use super::{assert_idle, is_timeout, is_too_many, queued};
use crate::{SECOND, is_busy};

#[test]
fn every_key_is_acquired_once_in_key_order() {
    let guard = KeyedGuard::new("all");
    let mut permits: Vec<_> = (0..4).map(|key| Some(guard.try_acquire(key).unwrap())).collect();
    let mut all = task::spawn(guard.acquire_all([3, 0, 2, 0, 3, 1]));
    assert_pending!(all.poll());
    for (key, permit) in permits.iter_mut().enumerate() {
        assert_eq!(guard.stats().waiting, 1, "it waits for one key at a time");
        // It does not wait for the later keys yet, so that releasing one of them would not wake it.
        assert!(!all.is_woken());
        *permit = None;
        assert!(all.is_woken(), "it waited for key {key}");
        if key < 3 {
            assert_pending!(all.poll());
        }
    }
    let all = assert_ready_ok!(all.poll());
    assert_eq!((all.len(), all.is_empty(), guard.len(), guard.stats().held), (4, false, 4, 4));
    drop(all);
    assert_eq!(guard.stats().granted, 8);
    assert_idle(&guard);
}

#[test]
fn acquiring_no_keys_succeeds_at_once() {
    let guard = KeyedGuard::<u32>::new("none");
    let none = assert_ready_ok!(task::spawn(guard.acquire_all([])).poll());
    assert_eq!((none.len(), none.is_empty(), guard.len()), (0, true, 0));
    assert_eq!(guard.stats().granted, 0);
}

#[test]
fn more_keys_than_the_coop_budget_allows_can_be_acquired() {
    const KEYS: usize = 10_000;
    let guard = KeyedGuard::new("many");
    let runtime = current_thread();
    let all = runtime.block_on(guard.acquire_all((0..KEYS).rev())).unwrap();
    assert_eq!((all.len(), guard.len()), (KEYS, KEYS));
    drop(all);
    assert_idle(&guard);
}

#[test]
fn tasks_that_name_keys_in_different_orders_never_deadlock() {
    const TASKS: u64 = 16;
    const ROUNDS: usize = 200;
    const KEYS: usize = 5;
    let guard = Arc::new(KeyedGuard::new("circle"));
    let inside = Arc::new([(); KEYS].map(|()| AtomicBool::new(false)));
    let runtime = multi_thread(4);
    let tasks = (1..=TASKS).map(|seed| {
        let (guard, inside) = (Arc::clone(&guard), Arc::clone(&inside));
        runtime.spawn(async move {
            let mut random = Random(seed);
            for _ in 0..ROUNDS {
                let keys = [(); 3].map(|()| random.below(KEYS));
                let mut distinct = keys.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                let permits = guard.acquire_all(keys).await.unwrap();
                assert_eq!(permits.len(), distinct.len());
                for key in &distinct {
                    assert!(!inside[*key].swap(true, Ordering::SeqCst), "two tasks hold key {key}");
                }
                yield_now().await;
                for key in &distinct {
                    inside[*key].store(false, Ordering::SeqCst);
                }
                drop(permits);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let all = runtime.block_on(async { timeout(60 * SECOND, futures::future::join_all(tasks)).await });
    for task in all.expect("the tasks deadlock") {
        task.unwrap();
    }
    assert_idle(&guard);
}

/// Asserts that only `others` keys are held, and that nothing remains of the refused caller.
fn assert_released(guard: &KeyedGuard<u32>, others: usize) {
    assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (others, others, 0));
}

#[test]
fn refusal_midway_releases_the_permits_acquired_before_it() {
    let reject = KeyedGuard::builder("busy").queue(Queue::Reject).build();
    let _held = reject.try_acquire(2).unwrap();
    assert!(is_busy(&assert_ready_err!(task::spawn(reject.acquire_all([3, 2, 1])).poll())));
    assert_released(&reject, 1);

    let few = KeyedGuard::builder("few").max_keys(2).build();
    assert!(is_too_many(&assert_ready_err!(task::spawn(few.acquire_all([3, 2, 1])).poll())));
    assert_released(&few, 0);

    let nested = KeyedGuard::new("nested");
    let mut run = task::spawn(nested.run(2, async {
        let refused = nested.acquire_all([3, 2, 1]).await.map(drop);
        assert_released(&nested, 1);
        refused
    }));
    assert_eq!(assert_ready_ok!(run.poll()).unwrap_err(), AcquireErrorKind::WouldDeadlock);

    let closing = KeyedGuard::new("closing");
    let _held = closing.try_acquire(2).unwrap();
    let mut all = task::spawn(closing.acquire_all([3, 2, 1]));
    assert_pending!(all.poll());
    closing.close();
    assert!(all.is_woken());
    assert_eq!(assert_ready_err!(all.poll()), AcquireErrorKind::Closed);
    assert_released(&closing, 1);
}

#[tokio::test(start_paused = true)]
async fn timeout_midway_releases_the_permits_acquired_before_it() {
    let guard = KeyedGuard::builder("late").max_wait(SECOND).build();
    let held = [1, 2].map(|key| guard.try_acquire(key).unwrap());
    let mut all = task::spawn(guard.acquire_all([0, 2, 1]));
    assert_pending!(all.poll());
    advance(SECOND - Duration::from_millis(10)).await;
    let [one, two] = held;
    drop(one);
    assert_pending!(all.poll());
    // The time limit continues for the next key.
    advance(Duration::from_millis(12)).await;
    assert!(is_timeout(&assert_ready_err!(all.poll())));
    assert_released(&guard, 1);
    drop(two);
    assert_idle(&guard);
}

#[test]
fn cancellation_midway_releases_the_permits_acquired_before_it() {
    let guard = KeyedGuard::new("cancelled");
    for grant_first in [false, true] {
        let mut held = Some(guard.try_acquire(2).unwrap());
        let mut all = task::spawn(guard.acquire_all([3, 2, 1]));
        assert_pending!(all.poll());
        let mut next = [1, 2].map(|key| queued(&guard, key));
        assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (2, 2, 3));
        if grant_first {
            held = None;
        }
        drop(all);
        drop(held);
        for next in &mut next {
            assert!(next.is_woken());
            drop(assert_ready_ok!(next.poll()));
        }
        assert_idle(&guard);
    }
}

#[test]
fn acquire_all_dropped_before_its_first_poll_has_no_effect() {
    let guard = KeyedGuard::new("unpolled");
    drop(guard.acquire_all([1, 2]));
    assert_idle(&guard);
    assert_eq!(guard.stats().granted, 0);
}

#[tokio::test(start_paused = true)]
async fn max_wait_limits_the_waits_for_all_keys_together() {
    let guard = leak(KeyedGuard::builder("together").max_wait(SECOND).build());
    for (gaps, is_in_time) in [(300, true), (400, false)] {
        let held: Vec<_> = (1..=3).map(|key| guard.try_acquire(key).unwrap()).collect();
        tokio::spawn(async move {
            for permit in held {
                sleep(Duration::from_millis(gaps)).await;
                drop(permit);
            }
        });
        let start = Instant::now();
        let result = guard.acquire_all([3, 1, 2]).await.map(drop);
        assert_eq!(result.is_ok(), is_in_time);
        if let Err(error) = result {
            assert_eq!(error, AcquireErrorKind::Timeout);
            assert!((SECOND..SECOND + Duration::from_millis(3)).contains(&error.waited().unwrap()), "{error:?}");
            assert!(start.elapsed() < SECOND + Duration::from_millis(3));
        }
        sleep(2 * SECOND).await;
        assert_eq!(guard.len(), 0);
    }
}

#[test]
fn permit_knows_its_key() {
    let guard = Arc::new(KeyedGuard::<String>::new("named"));
    let permit = guard.try_acquire("a".to_owned()).unwrap();
    let owned = Arc::clone(&guard).try_acquire_owned("b".to_owned()).unwrap();
    assert_eq!((permit.key(), owned.key()), ("a".to_owned(), "b".to_owned()));
}
