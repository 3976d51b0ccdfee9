//! The limits on the number of waiters and on the time that they wait.

use std::future::{pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use onelane::guard::FlightErrorKind;
use tokio::time::{advance, sleep};
use tokio_test::{assert_pending, assert_ready_ok};

use support::leak;
use support::runtimes::current_thread;
use support::waiting::MS;

use super::{Flight, OnDrop, Shared, assert_idle, assert_starts_fresh, caller, joined, joiner, on_demand, settle};
use crate::SECOND;

fn is_refused(poll: &Poll<Shared>) -> bool {
    matches!(poll, Poll::Ready(Err(error)) if *error == FlightErrorKind::TooManyWaiters)
}

fn is_late(poll: &Poll<Shared>, expected: Duration) -> bool {
    matches!(poll, Poll::Ready(Err(error)) if error.waited() == Some(expected))
}

#[test]
fn waiters_are_admitted_up_to_the_limit_and_a_cancelled_one_makes_room() {
    let runtime = current_thread();
    for has_runtime in [false, true] {
        let _entered = has_runtime.then(|| runtime.enter());
        for most in [0, 1, 2, 7] {
            let flight = leak(Flight::builder("bounded").max_waiters(most).build());
            let (finish, work) = on_demand();
            let mut first = caller(flight, 0, work);
            assert_pending!(first.poll());
            let mut waiters: Vec<_> = (0..most).map(|_| joined(flight, 0)).collect();
            for _ in 0..3 {
                assert!(is_refused(&joiner(flight, 0).poll()));
            }
            assert_pending!(caller(flight, 1, pending()).poll());
            if let Some(cancelled) = waiters.pop() {
                drop(cancelled);
                waiters.push(joined(flight, 0));
                assert!(is_refused(&joiner(flight, 0).poll()));
            }
            assert_eq!(flight.stats().waiting, 1 + most);
            finish.send(7).unwrap();
            if has_runtime {
                runtime.block_on(settle());
            }
            assert_eq!(assert_ready_ok!(first.poll()), 7);
            for mut waiter in waiters {
                assert_eq!(assert_ready_ok!(waiter.poll()), 7);
            }
            assert_eq!(flight.stats().refused, 3 + u64::from(most > 0));
            assert_starts_fresh(flight, 0);
        }
    }
}

#[test]
fn cancelled_leader_makes_room_for_a_follower() {
    let flight = leak(Flight::builder("bounded").max_waiters(1).build());
    let mut first = caller(flight, 0, pending());
    assert_pending!(first.poll());
    let _second = joined(flight, 0);
    drop(first);
    let _third = joined(flight, 0);
    assert!(is_refused(&joiner(flight, 0).poll()));
}

#[test]
fn concurrent_waiters_are_admitted_up_to_the_limit() {
    const MOST: usize = 50;
    const THREADS: usize = 8;
    const CALLERS: usize = 100;
    let flight = leak(Flight::builder("bounded").max_waiters(MOST).build());
    let mut first = caller(flight, 0, pending());
    assert_pending!(first.poll());
    for round in 1..=20 {
        let (start, all_polled) = (Barrier::new(THREADS), Barrier::new(THREADS));
        let arrive = || {
            start.wait();
            let mut callers: Vec<_> = (0..CALLERS).map(|_| joiner(flight, 0)).collect();
            let refused = callers.iter_mut().map(|caller| caller.poll()).filter(is_refused).count();
            all_polled.wait();
            CALLERS - refused
        };
        let admitted: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(arrive)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, MOST);
        assert_eq!(flight.stats().refused, round * (THREADS * CALLERS - MOST) as u64);
        assert_eq!(flight.stats().waiting, 1);
    }
}

fn impatient() -> &'static Flight {
    leak(Flight::builder("impatient").max_wait(SECOND).build())
}

#[tokio::test(start_paused = true)]
async fn timed_out_leader_leaves_the_run_to_its_followers() {
    let flight = impatient();
    let (finish, work) = on_demand();
    let mut first = caller(flight, 0, work);
    assert_pending!(first.poll());
    advance(SECOND / 2).await;
    let mut second = joined(flight, 0);
    advance(SECOND / 2 - MS).await;
    assert!(!first.is_woken());
    assert_pending!(first.poll());
    advance(MS).await;
    assert!(first.is_woken());
    assert!(is_late(&first.poll(), SECOND));
    assert_eq!((flight.stats().timed_out, flight.stats().waiting, flight.len()), (1, 1, 1));
    let late = joined(flight, 0);
    advance(SECOND / 2 - MS).await;
    assert_pending!(second.poll());
    finish.send(7).unwrap();
    settle().await;
    assert_eq!(assert_ready_ok!(second.poll()), 7);
    assert_eq!(late.await.unwrap(), 7);
    assert_eq!((flight.stats().runs, flight.stats().cancelled, flight.stats().timed_out), (1, 0, 1));
    assert_idle(flight);
}

#[tokio::test(start_paused = true)]
async fn last_caller_that_times_out_cancels_the_run() {
    for callers in [1, 2, 9] {
        let flight = impatient();
        let dropped = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&dropped);
        let on_drop = OnDrop(move || note.store(true, Ordering::SeqCst));
        let mut first = caller(flight, 0, async move {
            let _on_drop = on_drop;
            pending().await
        });
        assert_pending!(first.poll());
        let mut all = vec![first];
        all.extend((1..callers).map(|_| joined(flight, 0)));
        advance(SECOND).await;
        for mut caller in all {
            assert!(!dropped.load(Ordering::SeqCst));
            assert!(is_late(&caller.poll(), SECOND));
        }
        assert!(dropped.load(Ordering::SeqCst));
        assert_idle(flight);
        assert_eq!((flight.stats().timed_out, flight.stats().cancelled), (callers, 1));
        assert_starts_fresh(flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn detached_run_continues_after_all_callers_timed_out() {
    let flight = leak(Flight::builder("impatient").max_wait(SECOND).detached().build());
    let slow = || async {
        sleep(2 * SECOND + SECOND / 2).await;
        Ok(7)
    };
    assert!(is_late(&Poll::Ready(flight.run(0, slow).await), SECOND));
    assert!(is_late(&Poll::Ready(flight.run(0, slow).await), SECOND));
    assert_eq!(flight.run(0, || ready(Ok(8))).await.unwrap(), 7);
    assert_eq!((flight.stats().runs, flight.stats().timed_out), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn value_that_arrives_at_the_deadline_wins() {
    // The caller polls the work itself, which completes exactly at the deadline.
    let flight = impatient();
    let slow = || async {
        sleep(SECOND).await;
        Ok(7)
    };
    assert_eq!(flight.run(0, slow).await.unwrap(), 7);
    // A driver task polls the work. The callers are polled after the run is complete and their deadline has passed.
    let (finish, work) = on_demand();
    let mut first = caller(flight, 0, work);
    assert_pending!(first.poll());
    let mut second = joined(flight, 0);
    settle().await;
    advance(SECOND).await;
    finish.send(8).unwrap();
    settle().await;
    assert_eq!(assert_ready_ok!(first.poll()), 8);
    assert_eq!(assert_ready_ok!(second.poll()), 8);
    assert_eq!(flight.stats().timed_out, 0);
}

#[test]
fn outside_a_runtime_only_a_caller_that_waits_needs_a_timer() {
    let flight = impatient();
    assert_starts_fresh(flight, 0);
    let mut first = caller(flight, 0, pending());
    let polled = catch_unwind(AssertUnwindSafe(|| first.poll()));
    assert!(polled.is_err(), "a timer needs a runtime");
    let mut second = joiner(flight, 0);
    assert!(catch_unwind(AssertUnwindSafe(|| second.poll())).is_err());
    assert_eq!(flight.stats().waiting, 2);
    drop((first, second));
    assert_idle(flight);
    assert_starts_fresh(flight, 0);
}

#[tokio::test(start_paused = true)]
async fn limit_beyond_the_range_of_the_clock_never_expires() {
    let flight = leak(Flight::builder("patient").max_wait(Duration::MAX).build());
    let slow = || async {
        sleep(1_000_000 * SECOND).await;
        Ok(7)
    };
    assert_eq!(flight.run(0, slow).await.unwrap(), 7);
}

#[test]
fn builder_rejects_limits_that_admit_no_waiter() {
    let zero = catch_unwind(|| Flight::<u32, u64>::builder("hasty").max_wait(Duration::ZERO).build());
    assert!(zero.is_err());
    let error = Flight::<u32, u64>::builder("hasty").max_wait(Duration::ZERO).try_build().unwrap_err();
    assert_eq!((error.name(), error.setting()), ("hasty", "max_wait"));
    let error = Flight::<u32, u64>::builder("crowded").max_waiters(usize::MAX).try_build().unwrap_err();
    assert_eq!((error.name(), error.setting()), ("crowded", "max_waiters"));
    assert!(Flight::<u32, u64>::builder("fine").max_waiters(3).try_build().is_ok());
    let all = catch_unwind(|| Flight::<u32, u64>::builder("bounded").max_waiters(usize::MAX).build());
    assert!(all.is_err());
}
