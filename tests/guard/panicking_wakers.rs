//! Wakers that panic: every waker is called, the first panic propagates, and no panic aborts the process.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::{EndpointGuard, KeyedGuard, Order, Queue, SingleFlight};
use tokio::sync::oneshot;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use support::polling::PanickingWaker;
use support::runtimes::current_thread;

/// Polls a future with a waker that panics, and returns the future.
fn waits<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    let waker = Waker::from(Arc::new(PanickingWaker));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    future
}

/// Returns the payload with which `work` panics.
fn caught(work: impl FnOnce()) -> Option<&'static str> {
    let payload = catch_unwind(AssertUnwindSafe(work)).err()?;
    payload.downcast_ref::<&str>().copied()
}

#[test]
fn closing_a_guard_wakes_every_waiter() {
    let guard = EndpointGuard::new("closing");
    let permit = guard.try_acquire().unwrap();
    let _panicking = [0; 3].map(|_| waits(guard.acquire()));
    let mut last = task::spawn(guard.acquire());
    assert_pending!(last.poll());
    assert_eq!(caught(|| guard.close()), Some("woken"));
    assert!(last.is_woken());
    assert_eq!(assert_ready_err!(last.poll()), AcquireErrorKind::Closed);
    drop(permit);
    assert_ready!(task::spawn(guard.drained()).poll());
}

#[test]
fn closing_a_guard_whose_permits_are_forgotten_notifies_drained_although_a_waiter_panics() {
    let guard = EndpointGuard::new("forgotten");
    let keyed = KeyedGuard::new("forgotten");
    guard.try_acquire().unwrap().forget();
    keyed.try_acquire(0).unwrap().forget();
    let _panicking = (waits(guard.acquire()), waits(keyed.acquire(0)));
    let mut drained = (task::spawn(guard.drained()), task::spawn(keyed.drained()));
    assert_pending!(drained.0.poll());
    assert_pending!(drained.1.poll());
    assert_eq!(caught(|| guard.close()), Some("woken"));
    assert_eq!(caught(|| keyed.close()), Some("woken"));
    assert!(drained.0.is_woken() && drained.1.is_woken());
    assert_ready!(drained.0.poll());
    assert_ready!(drained.1.poll());
}

#[test]
fn closing_a_keyed_guard_wakes_the_waiters_of_every_key() {
    const KEYS: u32 = 20;
    let guard = KeyedGuard::new("closing");
    let permits: Vec<_> = (0..KEYS).map(|key| guard.try_acquire(key).unwrap()).collect();
    let _panicking: Vec<_> = (0..KEYS).map(|key| waits(guard.acquire(key))).collect();
    let mut others: Vec<_> = (0..KEYS).map(|key| task::spawn(guard.acquire(key))).collect();
    others.iter_mut().for_each(|other| assert_pending!(other.poll()));
    assert_eq!(caught(|| guard.close()), Some("woken"));
    for other in &mut others {
        assert!(other.is_woken());
        assert_eq!(assert_ready_err!(other.poll()), AcquireErrorKind::Closed);
    }
    drop(permits);
    assert_ready!(task::spawn(guard.drained()).poll());
}

#[test]
fn permits_released_together_are_granted_to_every_waiter() {
    let guard = EndpointGuard::builder("several").permits(3).build();
    let permits = [0; 3].map(|_| guard.try_acquire().unwrap());
    let panicking = [0; 2].map(|_| waits(guard.acquire()));
    let mut last = task::spawn(guard.acquire());
    assert_pending!(last.poll());
    // The second permit is dropped while the panic of the first waker unwinds.
    assert_eq!(caught(|| drop(permits)), Some("woken"));
    assert!(last.is_woken());
    drop(assert_ready_ok!(last.poll()));
    drop(panicking);
    assert_eq!(guard.stats().held, 0);
}

#[test]
fn permits_of_several_keys_released_together_are_granted_to_every_waiter() {
    let guard = KeyedGuard::new("several");
    let permits = [0, 1, 2].map(|key| guard.try_acquire(key).unwrap());
    let panicking = [0, 1].map(|key| waits(guard.acquire(key)));
    let mut last = task::spawn(guard.acquire(2));
    assert_pending!(last.poll());
    assert_eq!(caught(|| drop(permits)), Some("woken"));
    assert!(last.is_woken());
    drop(assert_ready_ok!(last.poll()));
    // A caller that is dropped with a grant passes its permit to the next waiter.
    let (_next, _others) = (waits(guard.acquire(0)), waits(guard.acquire(1)));
    assert_eq!(caught(|| drop(panicking)), Some("woken"));
}

#[test]
fn permit_released_by_a_panic_is_granted_and_the_panic_goes_on() {
    let guard = EndpointGuard::new("unwinding");
    let keyed = KeyedGuard::new("unwinding");
    let (permit, keyed_permit) = (guard.try_acquire().unwrap(), keyed.try_acquire(0).unwrap());
    let _waiting = (waits(guard.acquire()), waits(keyed.acquire(0)));
    let panic = caught(|| {
        let _permits = (permit, keyed_permit);
        resume_unwind(Box::new("the holder panics"));
    });
    assert_eq!(panic, Some("the holder panics"));
    assert_eq!((guard.stats().held, keyed.stats().held), (1, 1), "the permits are granted to the waiters");
}

#[test]
fn grants_that_expire_together_go_to_every_waiter() {
    // The runtime is not driven, so its timers wake no caller.
    let runtime = current_thread();
    let _entered = runtime.enter();
    let limit = Duration::from_millis(20);
    let guard = EndpointGuard::builder("expired").permits(3).grant_timeout(limit).build();
    let permits = [0; 3].map(|_| guard.try_acquire().unwrap());
    let mut stalled = [0; 3].map(|_| task::spawn(guard.acquire()));
    stalled.iter_mut().for_each(|caller| assert_pending!(caller.poll()));
    drop(permits);
    let _panicking = [0; 2].map(|_| waits(guard.acquire()));
    let mut last = task::spawn(guard.acquire());
    assert_pending!(last.poll());
    thread::sleep(2 * limit);
    assert_eq!(caught(|| drop(guard.try_acquire())), Some("woken"));
    assert!(last.is_woken());
    drop(assert_ready_ok!(last.poll()));
}

#[test]
fn panic_of_an_evicted_waiter_does_not_reach_the_newer_caller() {
    let guard = EndpointGuard::builder("lifo").order(Order::Lifo).queue(Queue::Bounded(1)).build();
    let keyed = KeyedGuard::builder("lifo").order(Order::Lifo).queue(Queue::Bounded(1)).build();
    let permits = (guard.try_acquire().unwrap(), keyed.try_acquire(0).unwrap());
    let _evicted = (waits(guard.acquire()), waits(keyed.acquire(0)));
    let mut newest = (task::spawn(guard.acquire()), task::spawn(keyed.acquire(0)));
    assert_pending!(newest.0.poll());
    assert_pending!(newest.1.poll());
    drop(permits);
    drop(assert_ready_ok!(newest.0.poll()));
    drop(assert_ready_ok!(newest.1.poll()));
}

#[test]
fn run_that_completes_wakes_every_caller() {
    let flight = SingleFlight::<u32, u64>::new("flight");
    let (complete, completed) = oneshot::channel();
    let mut leader = task::spawn(flight.run(0, || async { Ok(completed.await.unwrap()) }));
    assert_pending!(leader.poll());
    let _panicking = [0; 3].map(|_| waits(flight.run(0, pending)));
    let mut last = task::spawn(flight.run(0, pending));
    assert_pending!(last.poll());
    complete.send(7).unwrap();
    assert_eq!(caught(|| drop(leader.poll())), Some("woken"));
    assert!(last.is_woken());
    assert_eq!(assert_ready_ok!(last.poll()), 7);
}

#[test]
fn leader_dropped_by_a_panic_wakes_every_caller() {
    let flight = SingleFlight::<u32, u64>::new("flight");
    let mut leader = Box::pin(flight.run(0, || async { pending().await }));
    assert!(leader.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let _panicking = [0; 2].map(|_| waits(flight.run(0, pending)));
    let mut last = task::spawn(flight.run(0, pending));
    assert_pending!(last.poll());
    let panic = caught(|| {
        let _leader = leader;
        resume_unwind(Box::new("the leader panics"));
    });
    assert_eq!(panic, Some("the leader panics"));
    assert!(last.is_woken(), "another caller has to drive the run");
}

#[test]
fn every_caller_of_drained_is_notified() {
    let guard = EndpointGuard::new("drained");
    let keyed = KeyedGuard::<u32>::new("drained");
    let flight = SingleFlight::<u32, u64>::new("drained");
    let permits = (guard.try_acquire().unwrap(), keyed.try_acquire(0).unwrap());
    let leader = waits(flight.run(0, || async { pending().await }));
    let _panicking = [0; 2].map(|_| (waits(guard.drained()), waits(keyed.drained()), waits(flight.drained())));
    let mut last = (task::spawn(guard.drained()), task::spawn(keyed.drained()), task::spawn(flight.drained()));
    assert_pending!(last.0.poll());
    assert_pending!(last.1.poll());
    assert_pending!(last.2.poll());
    guard.close();
    keyed.close();
    flight.close();
    drop(permits);
    drop(leader);
    assert!(last.0.is_woken() && last.1.is_woken() && last.2.is_woken());
    assert_ready!(last.0.poll());
    assert_ready!(last.1.poll());
    assert_ready!(last.2.poll());
}
