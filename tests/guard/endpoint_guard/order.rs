//! The order in which waiters are served.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;

use onelane::{EndpointGuard, Order};
use tokio_test::{assert_pending, assert_ready_ok, task};

use super::assert_idle;
use crate::is_busy;

fn serves_ten_thousand_waiters_in(order: Order) {
    const CALLERS: usize = 10_000;
    let guard = EndpointGuard::builder("order").order(order).build();
    let mut permit = guard.try_acquire().unwrap();
    let mut callers: Vec<_> = (0..CALLERS).map(|_| task::spawn(guard.acquire())).collect();
    for caller in &mut callers {
        assert_pending!(caller.poll());
    }
    for served in 0..CALLERS {
        let (next, after) = match order {
            Order::Lifo => (CALLERS - 1 - served, (CALLERS - 1 - served).checked_sub(1)),
            _ => (served, Some(served + 1)),
        };
        drop(permit);
        assert!(callers[next].is_woken());
        if let Some(after) = after.and_then(|after| callers.get(after)) {
            assert!(!after.is_woken(), "one permit wakes one caller");
        }
        permit = assert_ready_ok!(callers[next].poll());
        assert_eq!((guard.stats().held, guard.stats().waiting), (1, CALLERS - 1 - served));
    }
    drop(permit);
    assert_idle(&guard);
}

#[test]
fn fifo_serves_the_oldest_waiter_first() {
    serves_ten_thousand_waiters_in(Order::Fifo);
}

#[test]
fn lifo_serves_the_newest_waiter_first() {
    serves_ten_thousand_waiters_in(Order::Lifo);
}

#[test]
fn granted_waiter_is_not_overtaken() {
    let guard = EndpointGuard::new("hand-off");
    let permit = guard.try_acquire().unwrap();
    let mut first = task::spawn(guard.acquire());
    assert_pending!(first.poll());
    drop(permit);
    assert_eq!(guard.stats().held, 1, "the permit is granted to the first waiter and never free");
    assert!(is_busy(&guard.try_acquire().unwrap_err()));
    let mut second = task::spawn(guard.acquire());
    assert_pending!(second.poll());
    drop(assert_ready_ok!(first.poll()));
    drop(assert_ready_ok!(second.poll()));
    assert_idle(&guard);
}

#[test]
fn caller_is_enqueued_by_its_first_poll() {
    let guard = EndpointGuard::new("first poll");
    let permit = guard.try_acquire().unwrap();
    let mut made_first = task::spawn(guard.acquire());
    let mut polled_first = task::spawn(guard.acquire());
    assert_pending!(polled_first.poll());
    assert_pending!(made_first.poll());
    drop(permit);
    assert_pending!(made_first.poll());
    drop(assert_ready_ok!(polled_first.poll()));
    drop(assert_ready_ok!(made_first.poll()));
}

#[test]
fn waiter_polled_by_hand_can_move_between_threads() {
    let guard = Arc::new(EndpointGuard::new("by hand"));
    let permit = Arc::clone(&guard).try_acquire_owned().unwrap();
    let mut caller = Arc::clone(&guard).acquire_owned();
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

#[test]
fn all_65_535_permits_can_be_held_at_once() {
    let guard = EndpointGuard::builder("most").permits(65_535).build();
    let permits: Vec<_> = (0..65_535).map(|_| guard.try_acquire().unwrap()).collect();
    assert!(is_busy(&guard.try_acquire().unwrap_err()));
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    assert_eq!((guard.stats().held, guard.stats().waiting), (65_535, 1));
    drop(permits);
    drop(assert_ready_ok!(caller.poll()));
    assert_idle(&guard);
}
