//! The limit on the number of keys.

use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use onelane::KeyedGuard;
use tokio_test::{assert_ready_err, assert_ready_ok, task};

use support::random::Random;

use super::{assert_idle, granted, is_too_many, queued};
use crate::is_busy;

#[test]
fn one_key_too_many_is_refused_and_existing_keys_are_unaffected() {
    let guard = Arc::new(KeyedGuard::builder("keys").permits(2).max_keys(3).build());
    let mut permits: Vec<_> = (0..3).map(|key| guard.try_acquire(key).unwrap()).collect();
    assert!(is_too_many(&guard.try_acquire(3).unwrap_err()));
    assert!(is_too_many(&Arc::clone(&guard).try_acquire_owned(3).unwrap_err()));
    assert_eq!(guard.stats().refused, 0, "a failed `try_acquire` is not a refused caller");
    assert!(is_too_many(&assert_ready_err!(task::spawn(guard.acquire(3)).poll())));
    assert!(is_too_many(&assert_ready_err!(task::spawn(Arc::clone(&guard).acquire_owned(3)).poll())));
    assert!(is_too_many(&assert_ready_err!(task::spawn(guard.run(3, ready(()))).poll())));
    assert!(is_too_many(&guard.acquire_blocking(3).unwrap_err()));
    assert!(is_too_many(&assert_ready_err!(task::spawn(guard.acquire_all([0, 3])).poll())));
    assert_eq!((guard.stats().refused, guard.len(), guard.stats().held), (5, 3, 3));

    permits.push(guard.try_acquire(1).unwrap());
    let mut waiter = queued(&guard, 1);
    permits.clear();
    drop(assert_ready_ok!(waiter.poll()));
    assert_idle(&guard);
}

#[test]
fn removed_key_makes_room_however_it_was_removed() {
    let guard = KeyedGuard::builder("room").max_keys(1).build();
    let assert_room = || {
        drop(guard.try_acquire(9).unwrap());
        assert_idle(&guard);
    };
    drop(guard.try_acquire(1).unwrap());
    assert_room();
    drop(granted(&guard, 1));
    assert_room();
    let permit = guard.try_acquire(1).unwrap();
    drop(queued(&guard, 1));
    assert!(is_too_many(&guard.try_acquire(9).unwrap_err()), "key 1 is still held");
    drop(permit);
    assert_room();
    drop(assert_ready_ok!(task::spawn(guard.acquire_all([1])).poll()));
    assert_room();
    let panics = guard.run(1, async { panic!("in the work") });
    assert!(catch_unwind(AssertUnwindSafe(|| task::spawn(panics).poll().map(|ran: Result<(), _>| ran))).is_err());
    assert_room();
}

#[test]
fn many_threads_never_exceed_the_limit_of_keys_and_lose_no_room() {
    const MOST: usize = 3;
    let guard = KeyedGuard::builder("most").max_keys(MOST).build();
    let live = AtomicUsize::new(0);
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for seed in 1..=8 {
            let (guard, live, refused) = (&guard, &live, &refused);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..20_000 {
                    match guard.try_acquire(random.below(64)) {
                        Ok(permit) => {
                            // Every permit belongs to another key, because each key has only one.
                            let others = live.fetch_add(1, Ordering::SeqCst);
                            assert!(others < MOST, "{} keys are in use", others + 1);
                            if random.below(8) == 0 {
                                thread::yield_now();
                            }
                            live.fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                        Err(error) if is_too_many(&error) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert!(is_busy(&error), "{error:?}"),
                    }
                }
            });
        }
    });
    assert_idle(&guard);
    assert!(refused.into_inner() > 0, "no caller reached the limit");
    let permits: Vec<_> = (0..MOST).map(|key| guard.try_acquire(key).unwrap()).collect();
    assert!(is_too_many(&guard.try_acquire(MOST).unwrap_err()));
    drop(permits);
}

#[test]
fn threads_with_new_keys_are_admitted_up_to_the_limit() {
    const MOST: usize = 3;
    const THREADS: usize = 8;
    let guard = KeyedGuard::builder("at once").max_keys(MOST).build();
    for round in 0..200 {
        let barrier = Barrier::new(THREADS);
        let outcomes = thread::scope(|scope| {
            let threads = [(); THREADS].map(|()| {
                scope.spawn(|| {
                    barrier.wait();
                    guard.try_acquire(thread::current().id())
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        let admitted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let refused = outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(is_too_many)).count();
        assert_eq!((admitted, refused), (MOST, THREADS - MOST), "round {round}");
        assert_eq!(guard.len(), MOST);
    }
    assert_idle(&guard);
}
