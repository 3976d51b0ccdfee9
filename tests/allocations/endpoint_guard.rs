//! A guard keeps no byte of callers that are gone.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::guard::futures::Acquire;
use onelane::{EndpointGuard, Order, Queue};
use tokio::task::coop::unconstrained;

use support::counting::{allocations_of, live_bytes};
use support::polling::{poll, poll_once};
use support::runtimes::paused;

const CALLERS: usize = 100_000;

fn queue(guard: &EndpointGuard) -> Vec<Option<Pin<Box<Acquire<'_>>>>> {
    let callers = (0..CALLERS).map(|_| {
        let mut caller = Box::pin(guard.acquire());
        assert!(poll(caller.as_mut()).is_pending());
        Some(caller)
    });
    callers.collect()
}

#[test]
fn allocator_counts() {
    crate::assert_allocator_counts();
}

#[test]
fn cancelled_waiters_leave_no_memory() {
    // From the front, from the back, and in scattered order: 7,919 and the number of callers are coprime.
    let orders: [fn(usize) -> usize; 3] = [|i| i, |i| CALLERS - 1 - i, |i| i * 7_919 % CALLERS];
    for next in orders {
        let guard = EndpointGuard::new("leak");
        let permit = guard.try_acquire().unwrap();
        let before = live_bytes();
        let mut callers = queue(&guard);
        assert!(live_bytes() - before > CALLERS.cast_signed(), "waiters take memory");
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
fn cancelled_grants_leave_no_memory() {
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
fn timed_out_callers_leave_no_memory() {
    const LIMIT: Duration = Duration::from_secs(1);
    let runtime = paused();
    let guard = EndpointGuard::builder("leak").max_wait(LIMIT).build();
    let permit = guard.try_acquire().unwrap();
    let round = || {
        // One poll makes more calls than the coop budget allows.
        runtime.block_on(unconstrained(async {
            let mut callers = queue(&guard);
            tokio::time::advance(2 * LIMIT).await;
            for caller in callers.iter_mut().flatten() {
                let Poll::Ready(Err(error)) = poll(caller.as_mut()) else { panic!("the caller should have timed out") };
                assert_eq!(error, AcquireErrorKind::Timeout);
            }
        }));
    };
    // The runtime allocates once for its first timers.
    round();
    let before = live_bytes();
    round();
    assert_eq!(live_bytes() - before, 0);
    assert_eq!((guard.stats().waiting, guard.stats().timed_out), (0, 2 * CALLERS as u64));
    drop(permit);
}

#[test]
fn callers_refused_by_close_leave_no_memory() {
    // The first refusal of a name keeps the name for the life of the process.
    let namesake = EndpointGuard::new("leak");
    namesake.close();
    namesake.try_acquire().unwrap_err();
    let before = live_bytes();
    let guard = EndpointGuard::new("leak");
    let callers = {
        let _permit = guard.try_acquire().unwrap();
        let mut callers = queue(&guard);
        guard.close();
        for caller in callers.iter_mut().step_by(2).flatten() {
            let outcome = poll(caller.as_mut()).map(|result| result.map(drop).map_err(|error| error.kind()));
            assert_eq!(outcome, Poll::Ready(Err(AcquireErrorKind::Closed)));
        }
        callers
    };
    drop(callers);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn slots_are_reused_while_one_caller_waits() {
    let guard = EndpointGuard::new("leak");
    let _permit = guard.try_acquire().unwrap();
    let before = live_bytes();
    let mut waiting = Box::pin(guard.acquire());
    assert!(poll(waiting.as_mut()).is_pending());
    for _ in 0..CALLERS {
        let mut cancelled = Box::pin(guard.acquire());
        assert!(poll(cancelled.as_mut()).is_pending());
    }
    assert!(live_bytes() - before < 1_024, "{} bytes for one caller", live_bytes() - before);
    drop(waiting);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn free_guard_allocates_nothing() {
    let guard = Arc::new(EndpointGuard::builder("free").max_wait(Duration::from_secs(1)).build());
    // The first run on a thread allocates the thread's list of the guards that it is inside.
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
fn refusal_allocates_nothing() {
    let guard = EndpointGuard::builder("full").queue(Queue::Bounded(1)).build();
    let _permit = guard.try_acquire().unwrap();
    let mut waiter = Box::pin(guard.acquire());
    assert!(poll(waiter.as_mut()).is_pending());
    // The first refusal of a name keeps the name for the life of the process.
    guard.try_acquire().unwrap_err();
    let made = [
        allocations_of(|| poll_once(guard.acquire()).unwrap_err()),
        allocations_of(|| guard.try_acquire().unwrap_err()),
        allocations_of(|| poll_once(guard.run(ready(()))).unwrap_err()),
    ];
    assert_eq!(made, [0; 3]);
}
