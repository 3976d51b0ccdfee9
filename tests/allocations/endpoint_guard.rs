//! What a guard keeps of callers that are gone: nothing, to the byte.
//!
//! A binary of its own, because it counts every allocation. It counts by thread, so that tests don't see each other.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use onelane::{Acquire, AcquireError, EndpointGuard, Order, Queue};
use tokio::task::coop::unconstrained;

use support::counting::{allocations_of, live_bytes};

const CALLERS: usize = 100_000;

fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn poll_once<F: Future>(future: F) -> F::Output {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the guard is free, or refuses at once"),
    }
}

fn queue(guard: &EndpointGuard) -> Vec<Option<Pin<Box<Acquire<'_>>>>> {
    let callers = (0..CALLERS).map(|_| {
        let mut caller = Box::pin(guard.acquire());
        assert!(poll(&mut caller).is_pending());
        Some(caller)
    });
    callers.collect()
}

#[test]
fn the_allocator_counts() {
    let before = live_bytes();
    let made = allocations_of(|| {
        let bytes = vec![0_u8; 1_000];
        assert_eq!(live_bytes() - before, 1_000);
        bytes
    });
    assert_eq!((made, live_bytes() - before), (1, 0));
}

#[test]
fn callers_that_leave_the_queue_leave_nothing() {
    // One after another from the front, from the back, and all over the place: 7,919 is prime to the number of callers.
    let orders: [fn(usize) -> usize; 3] = [|i| i, |i| CALLERS - 1 - i, |i| i * 7_919 % CALLERS];
    for next in orders {
        let guard = EndpointGuard::new("leak");
        let permit = guard.try_acquire().unwrap();
        let before = live_bytes();
        let mut callers = queue(&guard);
        assert!(live_bytes() - before > CALLERS.cast_signed(), "waiting takes memory");
        for i in 0..CALLERS {
            callers[next(i)] = None;
        }
        drop(callers);
        assert_eq!(live_bytes() - before, 0);
        assert_eq!((guard.stats().waiting, guard.stats().cancelled), (0, CALLERS as u64));
        drop(permit);
    }
}

#[test]
fn callers_that_leave_as_their_turn_has_come_leave_nothing() {
    for order in [Order::Fifo, Order::Lifo] {
        let guard = EndpointGuard::builder("leak").order(order).build();
        let permit = guard.try_acquire().unwrap();
        let before = live_bytes();
        let mut callers = queue(&guard);
        drop(permit);
        for i in 0..CALLERS {
            assert_eq!((guard.stats().held, guard.stats().waiting), (1, CALLERS - 1 - i));
            let next = if order == Order::Fifo { i } else { CALLERS - 1 - i };
            callers[next] = None;
        }
        drop(callers);
        assert_eq!(live_bytes() - before, 0);
        assert_eq!((guard.stats().held, guard.stats().granted), (0, CALLERS as u64 + 1));
    }
}

#[test]
fn callers_that_waited_too_long_leave_nothing() {
    const LIMIT: Duration = Duration::from_secs(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let guard = EndpointGuard::builder("leak").max_wait(LIMIT).build();
    let permit = guard.try_acquire().unwrap();
    let round = || {
        // One poll asks for all of them, which is more than a task may do.
        runtime.block_on(unconstrained(async {
            let mut callers = queue(&guard);
            tokio::time::advance(2 * LIMIT).await;
            for caller in callers.iter_mut().flatten() {
                let Poll::Ready(Err(AcquireError::Timeout { .. })) = poll(caller) else { panic!("its time is over") };
            }
        }));
    };
    // The runtime sets up once what it needs for its first timer.
    round();
    let before = live_bytes();
    round();
    assert_eq!(live_bytes() - before, 0);
    assert_eq!((guard.stats().waiting, guard.stats().timed_out), (0, 2 * CALLERS as u64));
    drop(permit);
}

#[test]
fn callers_that_are_closed_out_leave_nothing() {
    let before = live_bytes();
    let guard = EndpointGuard::new("leak");
    let callers = {
        let _permit = guard.try_acquire().unwrap();
        let mut callers = queue(&guard);
        guard.close();
        for caller in callers.iter_mut().step_by(2).flatten() {
            assert_eq!(poll(caller).map(|result| result.map(drop)), Poll::Ready(Err(AcquireError::Closed)));
        }
        callers
    };
    drop(callers);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn places_are_used_again_while_one_caller_stays() {
    let guard = EndpointGuard::new("leak");
    let _permit = guard.try_acquire().unwrap();
    let before = live_bytes();
    let mut stays = Box::pin(guard.acquire());
    assert!(poll(&mut stays).is_pending());
    for _ in 0..CALLERS {
        let mut leaves = Box::pin(guard.acquire());
        assert!(poll(&mut leaves).is_pending());
    }
    assert!(live_bytes() - before < 1_024, "{} bytes for one caller", live_bytes() - before);
    drop(stays);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn a_free_guard_allocates_nothing() {
    let guard = Arc::new(EndpointGuard::builder("free").max_wait(Duration::from_secs(1)).build());
    // A thread's list of the guards that it is inside of is made with its first run.
    poll_once(guard.run(ready(()))).unwrap();
    let made = [
        allocations_of(|| poll_once(guard.acquire()).unwrap()),
        allocations_of(|| poll_once(Arc::clone(&guard).acquire_owned()).unwrap()),
        allocations_of(|| guard.try_acquire().unwrap()),
        allocations_of(|| Arc::clone(&guard).try_acquire_owned().unwrap()),
        allocations_of(|| guard.acquire_blocking().unwrap()),
        allocations_of(|| poll_once(guard.run(async { 7 })).unwrap()),
        allocations_of(|| guard.stats()),
    ];
    assert_eq!(made, [0; 7]);
}

#[test]
fn a_refusal_allocates_nothing() {
    let guard = EndpointGuard::builder("full").queue(Queue::Bounded(1)).build();
    let _permit = guard.try_acquire().unwrap();
    let mut waits = Box::pin(guard.acquire());
    assert!(poll(&mut waits).is_pending());
    let made = [
        allocations_of(|| poll_once(guard.acquire()).unwrap_err()),
        allocations_of(|| guard.try_acquire().unwrap_err()),
        allocations_of(|| poll_once(guard.run(ready(()))).unwrap_err()),
    ];
    assert_eq!(made, [0; 3]);
}
