//! What a single flight keeps of keys whose runs have ended: nothing, to the byte.
//!
//! A binary of its own, because it counts every allocation. It counts by thread, so that tests don't see each other.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::future::{Future, pending, poll_fn, ready};
use std::ops::Range;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use onelane::{FlightError, SingleFlight};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio::time::{advance, sleep};

use support::counting::{allocations_of, live_bytes};

const KEYS: usize = 100_000;
const LIMIT: Duration = Duration::from_secs(1);

fn poll_once<F: Future>(future: F) -> F::Output {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it ends at once"),
    }
}

type Flight = SingleFlight<String, String, String>;
type Answer = Result<String, String>;
type Call<'a> = Pin<Box<dyn Future<Output = Result<String, FlightError<String>>> + 'a>>;

/// What becomes of the run of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    FinishesAtOnce,
    Finishes,
    Fails,
    Panics,
    PanicsAtOnce,
    IsCancelled,
    /// After the task has polled it.
    IsCancelledLate,
    TimesOut,
    /// All callers leave, and it goes on.
    IsDetached,
    IsForgotten,
    IsForgottenAndCancelled,
}

const FATES: [Fate; 11] = [
    Fate::FinishesAtOnce,
    Fate::Finishes,
    Fate::Fails,
    Fate::Panics,
    Fate::PanicsAtOnce,
    Fate::IsCancelled,
    Fate::IsCancelledLate,
    Fate::TimesOut,
    Fate::IsDetached,
    Fate::IsForgotten,
    Fate::IsForgottenAndCancelled,
];

async fn work(fate: Fate, value: String) -> Answer {
    match fate {
        Fate::FinishesAtOnce => return Ok(value),
        Fate::PanicsAtOnce => resume_unwind(Box::new(value)),
        Fate::IsCancelled | Fate::IsCancelledLate | Fate::IsForgottenAndCancelled | Fate::TimesOut => pending().await,
        Fate::Finishes | Fate::Fails | Fate::Panics | Fate::IsDetached | Fate::IsForgotten => {
            sleep(Duration::from_millis(1)).await;
        }
    }
    match fate {
        Fate::Fails => Err(value),
        Fate::Panics => resume_unwind(Box::new(value)),
        _ => Ok(value),
    }
}

fn flight(fate: Fate) -> Flight {
    let flight = Flight::builder("leak");
    match fate {
        Fate::IsDetached => flight.detached().build(),
        Fate::TimesOut => flight.wait_timeout(LIMIT).build(),
        _ => flight.build(),
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn key(number: usize) -> String {
    format!("a key of some length: {number:08}")
}

async fn poll_now(call: &mut Call<'_>) -> Poll<Result<String, FlightError<String>>> {
    poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await
}

/// Lets the tasks poll their work.
async fn poll_tasks(tasks: usize) {
    // A runtime polls several of them between two polls of the test.
    for _ in 0..2 + tasks / 16 {
        yield_now().await;
    }
}

/// Lets the tasks end.
async fn end_tasks() {
    let metrics = Handle::current().metrics();
    while metrics.num_alive_tasks() > 0 {
        yield_now().await;
    }
}

/// The runs of some keys at once, each for so many callers, from beginning to end.
async fn play(flight: &Flight, fate: Fate, keys: Range<usize>, callers: usize) {
    let mut calls: Vec<Call<'_>> = Vec::new();
    for number in keys.clone() {
        for _ in 0..callers {
            let mut call: Call<'_> = Box::pin(flight.run(key(number), move || work(fate, key(number))));
            let polled = poll_now(&mut call).await;
            if matches!(fate, Fate::FinishesAtOnce | Fate::PanicsAtOnce) {
                assert_eq!(polled.map(|result| result.is_ok()), Poll::Ready(fate == Fate::FinishesAtOnce));
            } else {
                assert!(polled.is_pending());
                calls.push(call);
            }
        }
    }
    match fate {
        Fate::FinishesAtOnce | Fate::PanicsAtOnce => {}
        Fate::Finishes | Fate::Fails | Fate::Panics | Fate::IsForgotten => {
            if fate == Fate::IsForgotten {
                keys.clone().for_each(|number| assert!(flight.forget(&key(number))));
            }
            for call in calls.drain(..) {
                match (fate, call.await) {
                    (Fate::Fails, Err(FlightError::Failed(_))) | (Fate::Panics, Err(FlightError::Panicked { .. })) => {}
                    (Fate::Finishes | Fate::IsForgotten, Ok(_)) => {}
                    (_, answer) => panic!("not what its work does: {answer:?}"),
                }
            }
        }
        Fate::IsCancelled => calls.clear(),
        Fate::IsCancelledLate => {
            poll_tasks(keys.len()).await;
            calls.clear();
        }
        Fate::TimesOut => {
            advance(LIMIT).await;
            for call in &mut calls {
                assert!(matches!(poll_now(call).await, Poll::Ready(Err(FlightError::Timeout { .. }))));
            }
        }
        Fate::IsDetached => {
            calls.clear();
            assert_eq!(flight.len(), keys.len());
            sleep(Duration::from_millis(2)).await;
        }
        Fate::IsForgottenAndCancelled => {
            keys.clone().for_each(|number| assert!(flight.forget(&key(number))));
            calls.clear();
        }
    }
    drop(calls);
    end_tasks().await;
    assert_eq!((flight.len(), flight.stats().waiting), (0, 0));
}

/// Plays all keys, so many at once. Returns the bytes that are left.
fn play_all(fate: Fate, at_once: usize, callers: usize) -> isize {
    let runtime = runtime();
    let flight = flight(fate);
    // One poll does what is more than a task may do.
    let round = |keys: Range<usize>| runtime.block_on(unconstrained(play(&flight, fate, keys, callers)));
    // The flight makes its table at the first call, and the runtime the place for so many tasks.
    round(0..at_once);
    let before = live_bytes();
    for first in (0..KEYS).step_by(at_once) {
        round(first..first + at_once);
    }
    let left = live_bytes() - before;
    let stats = flight.stats();
    let at_the_end = matches!(fate, Fate::FinishesAtOnce | Fate::PanicsAtOnce);
    let calls = ((KEYS + at_once) * callers) as u64;
    assert_eq!(stats.runs, if at_the_end { calls } else { (KEYS + at_once) as u64 });
    assert_eq!(stats.runs + stats.shared, calls);
    left
}

fn assert_nothing_is_left(at_once: usize, callers: usize) {
    for fate in FATES {
        assert_eq!(play_all(fate, at_once, callers), 0, "{fate:?}");
    }
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
fn runs_of_one_caller_one_after_the_other_leave_nothing() {
    assert_nothing_is_left(1, 1);
}

#[test]
fn runs_of_one_caller_many_at_once_leave_nothing() {
    assert_nothing_is_left(1_000, 1);
}

#[test]
fn shared_runs_one_after_the_other_leave_nothing() {
    assert_nothing_is_left(1, 2);
}

#[test]
fn shared_runs_many_at_once_leave_nothing() {
    assert_nothing_is_left(1_000, 2);
}

#[test]
fn waiting_takes_memory_until_the_last_caller_leaves() {
    let flight = Flight::new("leak");
    poll_once(flight.run(key(0), || ready(Ok(key(0))))).unwrap();
    let before = live_bytes();
    let mut calls: Vec<Call<'_>> = Vec::new();
    for number in 0..1_000 {
        let mut call: Call<'_> = Box::pin(flight.run(key(number % 100), pending));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        calls.push(call);
    }
    assert!(live_bytes() - before > 10_000, "the test measures nothing");
    drop(calls);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn places_are_used_again_while_one_caller_stays() {
    let flight = Flight::new("leak");
    poll_once(flight.run(key(0), || ready(Ok(key(0))))).unwrap();
    let before = live_bytes();
    let mut stays: Call<'_> = Box::pin(flight.run(key(0), pending));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(stays.as_mut().poll(&mut cx).is_pending());
    for number in 0..KEYS {
        // Another caller of the same key, and one of another.
        for number in [0, number + 1] {
            let mut leaves: Call<'_> = Box::pin(flight.run(key(number), pending));
            assert!(leaves.as_mut().poll(&mut cx).is_pending());
        }
    }
    assert!(live_bytes() - before < 4_096, "{} bytes for one caller", live_bytes() - before);
    drop(stays);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn a_flight_that_is_dropped_leaves_nothing() {
    let before = live_bytes();
    for fate in FATES {
        let runtime = runtime();
        let flight = flight(fate);
        runtime.block_on(unconstrained(play(&flight, fate, 0..100, 2)));
    }
    // What the thread and the runtime make once for each thread is there by now.
    let once = live_bytes();
    for fate in FATES {
        let runtime = runtime();
        let flight = flight(fate);
        runtime.block_on(unconstrained(play(&flight, fate, 0..100, 2)));
    }
    assert_eq!(live_bytes() - once, 0, "{} bytes once", once - before);
}

#[test]
fn a_run_that_ends_at_once_allocates_its_work_only() {
    let flight = SingleFlight::<u64, u64>::new("frugal");
    // The table is made at the first call, and the thread's list of the runs that it is inside of.
    poll_once(flight.run(7, || ready(Ok(7)))).unwrap();
    assert_eq!(allocations_of(|| poll_once(flight.run(7, || ready(Ok(7)))).unwrap()), 1);
    assert_eq!(allocations_of(|| flight.stats()), 0);
}

#[test]
fn a_refusal_allocates_nothing() {
    let flight = SingleFlight::<u64, u64>::builder("full").max_waiters(0).build();
    let mut first = Box::pin(flight.run(7, pending));
    assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(allocations_of(|| poll_once(flight.run(7, pending)).unwrap_err()), 0);
}
