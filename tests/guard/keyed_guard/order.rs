//! The order in which the waiters of each key are served.

use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;

use onelane::{KeyedGuard, Order, Queue};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use super::{assert_idle, granted, queued};
use crate::{Colliding, is_busy, is_full};

const KEYS: usize = 40;
const CALLERS: usize = 25;

fn serves_the_waiters_of_every_key_in<K: Hash + Eq + Copy>(order: Order, key: impl Fn(u32) -> K) {
    let guard = KeyedGuard::builder("order").order(order).build();
    let keys: Vec<K> = (0..KEYS as u32).map(key).collect();
    let mut permits: Vec<_> = keys.iter().map(|key| Some(guard.try_acquire(*key).unwrap())).collect();
    let mut callers: Vec<_> = (0..KEYS).map(|_| Vec::new()).collect();
    // One caller per key in each round, so that the callers of all keys are interleaved.
    for _ in 0..CALLERS {
        for (key, callers) in keys.iter().zip(&mut callers) {
            callers.push(queued(&guard, *key));
        }
    }
    assert_eq!((guard.len(), guard.stats().waiting), (KEYS, KEYS * CALLERS));
    for served in 0..CALLERS {
        let next = if order == Order::Lifo { CALLERS - 1 - served } else { served };
        for key in 0..KEYS {
            permits[key] = None;
            assert!(callers[key][next].is_woken());
            let woken = callers.iter().flatten().filter(|caller| caller.is_woken()).count();
            assert_eq!(woken, 1, "one permit wakes one caller");
            permits[key] = Some(assert_ready_ok!(callers[key][next].poll()));
            assert_eq!(guard.stats().held, KEYS);
        }
        assert_eq!((guard.len(), guard.stats().waiting), (KEYS, KEYS * (CALLERS - 1 - served)));
    }
    for (released, permit) in permits.into_iter().enumerate() {
        assert_eq!(guard.len(), KEYS - released);
        drop(permit);
    }
    assert_idle(&guard);
}

#[test]
fn fifo_serves_the_oldest_waiter_of_each_key_first() {
    serves_the_waiters_of_every_key_in(Order::Fifo, |number| number);
}

#[test]
fn lifo_serves_the_newest_waiter_of_each_key_first() {
    serves_the_waiters_of_every_key_in(Order::Lifo, |number| number);
}

#[test]
fn keys_with_equal_hashes_have_separate_queues() {
    serves_the_waiters_of_every_key_in(Order::Fifo, Colliding);
    serves_the_waiters_of_every_key_in(Order::Lifo, Colliding);
}

#[test]
fn contended_key_delays_no_other_key() {
    let guard = KeyedGuard::builder("others").queue(Queue::Bounded(3)).build();
    let _permit = guard.try_acquire(Colliding(0)).unwrap();
    let waiting = [0; 3].map(|_| queued(&guard, Colliding(0)));
    assert!(is_full(&assert_ready_err!(task::spawn(guard.acquire(Colliding(0))).poll())));
    for other in 1..100 {
        drop(guard.try_acquire(Colliding(other)).unwrap());
        drop(assert_ready_ok!(task::spawn(guard.acquire(Colliding(other))).poll()));
    }
    assert!(waiting.iter().all(|caller| !caller.is_woken()));
    assert_eq!(guard.len(), 1);
}

#[test]
fn granted_waiter_is_not_overtaken() {
    let guard = KeyedGuard::new("hand-off");
    let mut first = granted(&guard, 1);
    assert_eq!(guard.stats().held, 1, "the permit is granted to the first waiter and never free");
    assert!(is_busy(&guard.try_acquire(1).unwrap_err()));
    let mut second = queued(&guard, 1);
    drop(assert_ready_ok!(first.poll()));
    drop(assert_ready_ok!(second.poll()));
    assert_idle(&guard);
}

#[test]
fn caller_is_enqueued_by_its_first_poll() {
    let guard = KeyedGuard::new("first poll");
    let permit = guard.try_acquire(1).unwrap();
    let mut made_first = task::spawn(guard.acquire(1));
    let mut polled_first = queued(&guard, 1);
    assert_pending!(made_first.poll());
    drop(permit);
    assert_pending!(made_first.poll());
    drop(assert_ready_ok!(polled_first.poll()));
    drop(assert_ready_ok!(made_first.poll()));
}

#[test]
fn permits_are_counted_per_key() {
    const PERMITS: usize = 3;
    let guard = KeyedGuard::builder("three").permits(PERMITS).build();
    let mut held: Vec<_> = (0..10 * PERMITS as u32).map(|i| Some(guard.try_acquire(i % 10).unwrap())).collect();
    assert_eq!((guard.len(), guard.stats().held, guard.stats().permits), (10, 30, PERMITS));
    for key in 0..10 {
        assert!(is_busy(&guard.try_acquire(key).unwrap_err()));
    }
    let mut seven = queued(&guard, 7);
    let mut other = queued(&guard, 8);
    held[17] = None;
    held[16] = None;
    let fourth = assert_ready_ok!(seven.poll());
    assert_pending!(other.poll());
    assert!(is_busy(&guard.try_acquire(7).unwrap_err()));
    drop(guard.try_acquire(6).unwrap());
    drop((held, fourth, other));
    assert_idle(&guard);
}

#[test]
fn waiter_polled_by_hand_can_move_between_threads() {
    let guard = Arc::new(KeyedGuard::new("by hand"));
    let permit = Arc::clone(&guard).try_acquire_owned("key".to_owned()).unwrap();
    let mut caller = Arc::clone(&guard).acquire_owned("key".to_owned());
    assert!(Pin::new(&mut caller).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // The waiter uses its latest waker, not the first one.
    let moved = thread::spawn(move || {
        let mut caller = task::spawn(caller);
        assert_pending!(caller.poll());
        caller
    });
    let mut caller = moved.join().unwrap();
    thread::spawn(move || drop(permit)).join().unwrap();
    assert!(caller.is_woken());
    let permit = assert_ready_ok!(caller.poll());
    thread::spawn(move || drop(permit)).join().unwrap();
    assert_idle(&guard);
}
