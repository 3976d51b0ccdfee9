//! Work that calls the flight that runs it.

use std::future::{poll_fn, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::future::join;
use onelane::FlightError;
use onelane::guard::FlightErrorKind;
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};

use support::runtimes::current_thread;

use super::{
    Flight, OnDrop, WorkResult, assert_idle, assert_starts_fresh, call, caller, flight, joined, joiner, settle,
    yield_once,
};
use crate::SECOND;

fn deadlocks<T>(result: &Result<T, FlightError<&'static str>>) -> bool {
    matches!(result, Err(error) if *error == FlightErrorKind::WouldDeadlock)
}

async fn calls_its_own_key(flight: &'static Flight, delay: Duration) -> WorkResult {
    if !delay.is_zero() {
        sleep(delay).await;
    }
    assert!(deadlocks(&call(flight, 0, ready(Ok(1))).await));
    let (own, other) = join(call(flight, 0, ready(Ok(1))), call(flight, 1, ready(Ok(2)))).await;
    assert!(deadlocks(&own));
    Ok(other.unwrap())
}

#[tokio::test(start_paused = true)]
async fn work_that_calls_its_own_key_is_refused() {
    // In the first poll, and in a later one, which a driver task makes if the run has two callers.
    for delay in [Duration::ZERO, SECOND] {
        let flight = flight();
        assert_eq!(call(flight, 0, calls_its_own_key(flight, delay)).await.unwrap(), 2);
        assert_eq!((flight.stats().runs, flight.stats().refused), (2, 2));
        assert_idle(flight);
    }
    let flight = flight();
    let first = call(flight, 0, calls_its_own_key(flight, SECOND));
    let (one, other) = join(first, joiner(flight, 0)).await;
    assert_eq!((one.unwrap(), other.unwrap()), (2, 2));
    assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().refused), (2, 1, 2));
    assert_idle(flight);
}

#[tokio::test]
async fn nested_run_of_another_key_refuses_both_keys() {
    let flight = flight();
    let only = flight.run(0, || async {
        let inner = flight.run(1, || async {
            assert!(deadlocks(&flight.run(0, || ready(Ok(1))).await));
            assert!(deadlocks(&flight.run(1, || ready(Ok(1))).await));
            Ok(flight.run(2, || ready(Ok(3))).await.unwrap())
        });
        let inner = inner.await.unwrap();
        // The inner run is complete, so its key is allowed again. The key of the outer run is not.
        assert_eq!(flight.run(1, || ready(Ok(4))).await.unwrap(), 4);
        assert!(deadlocks(&flight.run(0, || ready(Ok(1))).await));
        Ok(inner)
    });
    assert_eq!(only.await.unwrap(), 3);
    assert_idle(flight);
}

#[tokio::test]
async fn same_key_of_another_flight_is_allowed() {
    let (one, other) = (flight(), flight());
    let nested =
        one.run(0, || async { other.run(0, || ready(Ok(7))).await.map_err(|_| "the other flight refused it") });
    assert_eq!(nested.await.unwrap(), 7);
}

#[tokio::test]
async fn two_concurrent_calls_of_one_task_share_the_run() {
    let flight = flight();
    let work = || async {
        yield_once().await;
        Ok(7)
    };
    let (one, other) = join(flight.run(0, work), flight.run(0, work)).await;
    assert_eq!((one.unwrap(), other.unwrap()), (7, 7));
    assert_eq!((flight.stats().runs, flight.stats().shared), (1, 1));
}

#[test]
fn destructor_of_the_work_that_calls_its_own_key_is_refused() {
    let runtime = current_thread();
    for has_runtime in [false, true] {
        let _entered = has_runtime.then(|| runtime.enter());
        // When the work completes, when it is cancelled, and when it is cancelled in the driver task.
        for completes in [true, false] {
            for callers in [1, 2] {
                let flight = flight();
                let (refusals, other) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
                let notes = (Arc::clone(&refusals), Arc::clone(&other));
                let on_drop = OnDrop(move || {
                    let own = assert_ready!(task::spawn(flight.run(0, || ready(Ok(1)))).poll());
                    notes.0.fetch_add(usize::from(deadlocks(&own)), Ordering::SeqCst);
                    let other = assert_ready!(task::spawn(flight.run(1, || ready(Ok(1)))).poll());
                    notes.1.fetch_add(usize::from(other.is_ok()), Ordering::SeqCst);
                });
                let mut is_first_poll = true;
                let mut first = caller(
                    flight,
                    0,
                    poll_fn(move |_| {
                        let _captured = &on_drop;
                        let is_ready = completes && !std::mem::replace(&mut is_first_poll, false);
                        if is_ready { Poll::Ready(Ok(7)) } else { Poll::Pending }
                    }),
                );
                assert_pending!(first.poll());
                let mut all = vec![first];
                all.extend((1..callers).map(|_| joined(flight, 0)));
                if has_runtime {
                    runtime.block_on(settle());
                }
                if completes {
                    let polled: Vec<_> = all.iter_mut().map(|caller| caller.poll()).collect();
                    if !has_runtime || callers == 1 {
                        polled.into_iter().for_each(|poll| assert_eq!(assert_ready_ok!(poll), 7));
                    }
                }
                drop(all);
                let seen = (refusals.load(Ordering::SeqCst), other.load(Ordering::SeqCst));
                assert_eq!(seen, (1, 1), "{completes} {callers}");
                assert_idle(flight);
                assert_starts_fresh(flight, 0);
            }
        }
    }
}
