//! A single flight keeps no byte of keys whose runs have ended.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::future::{Future, pending, poll_fn, ready};
use std::ops::Range;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use onelane::guard::FlightErrorKind;
use onelane::{FlightError, SingleFlight};
use tokio::runtime::Handle;
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio::time::{advance, sleep};

use support::counting::{allocations_of, live_bytes};
use support::polling::{poll, poll_once};
use support::runtimes::paused;

const KEYS: usize = 100_000;
const LIMIT: Duration = Duration::from_secs(1);

type Flight = SingleFlight<String, String, String>;
type WorkResult = Result<String, String>;
type Call<'a> = Pin<Box<dyn Future<Output = Result<String, FlightError<String>>> + 'a>>;

/// The fate of each key's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    FinishesAtOnce,
    Finishes,
    Fails,
    Panics,
    PanicsAtOnce,
    IsCancelled,
    /// The run is cancelled after a driver task has polled it.
    IsCancelledLate,
    TimesOut,
    /// All callers are dropped, and the run continues.
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

async fn work(fate: Fate, value: String) -> WorkResult {
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
        Fate::TimesOut => flight.max_wait(LIMIT).build(),
        _ => flight.build(),
    }
}

fn key(number: usize) -> String {
    format!("a key of some length: {number:08}")
}

async fn poll_now(call: &mut Call<'_>) -> Poll<Result<String, FlightError<String>>> {
    poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await
}

/// Lets the driver tasks poll their work.
async fn poll_tasks(tasks: usize) {
    // The runtime polls several tasks between two polls of the test.
    for _ in 0..2 + tasks / 16 {
        yield_now().await;
    }
}

/// Waits until all driver tasks have ended.
async fn end_tasks() {
    let metrics = Handle::current().metrics();
    while metrics.num_alive_tasks() > 0 {
        yield_now().await;
    }
}

/// Plays the runs of some keys at the same time, each for the given number of callers.
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
                    (Fate::Fails, Err(error)) if error == FlightErrorKind::Failed => {}
                    (Fate::Panics, Err(error)) if error == FlightErrorKind::Panicked => {}
                    (Fate::Finishes | Fate::IsForgotten, Ok(_)) => {}
                    (_, output) => panic!("not the outcome of the work: {output:?}"),
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
                assert!(matches!(poll_now(call).await, Poll::Ready(Err(error)) if error == FlightErrorKind::Timeout));
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

/// Plays all keys, `at_once` at a time. Returns the number of bytes that remain.
fn play_all(fate: Fate, at_once: usize, callers: usize) -> isize {
    let runtime = paused();
    let flight = flight(fate);
    // One poll makes more calls than the coop budget allows.
    let round = |keys: Range<usize>| runtime.block_on(unconstrained(play(&flight, fate, keys, callers)));
    // The flight allocates its table at the first call, and the runtime its storage for this many tasks.
    round(0..at_once);
    let before = live_bytes();
    for first in (0..KEYS).step_by(at_once) {
        round(first..first + at_once);
    }
    let remaining = live_bytes() - before;
    let stats = flight.stats();
    let at_the_end = matches!(fate, Fate::FinishesAtOnce | Fate::PanicsAtOnce);
    let calls = ((KEYS + at_once) * callers) as u64;
    assert_eq!(stats.runs, if at_the_end { calls } else { (KEYS + at_once) as u64 });
    assert_eq!(stats.runs + stats.shared, calls);
    remaining
}

fn assert_no_memory_remains(at_once: usize, callers: usize) {
    for fate in FATES {
        assert_eq!(play_all(fate, at_once, callers), 0, "{fate:?}");
    }
}

#[test]
fn allocator_counts() {
    crate::assert_allocator_counts();
}

#[test]
fn sequential_runs_of_one_caller_leave_no_memory() {
    assert_no_memory_remains(1, 1);
}

#[test]
fn concurrent_runs_of_one_caller_leave_no_memory() {
    assert_no_memory_remains(1_000, 1);
}

#[test]
fn sequential_shared_runs_leave_no_memory() {
    assert_no_memory_remains(1, 2);
}

#[test]
fn concurrent_shared_runs_leave_no_memory() {
    assert_no_memory_remains(1_000, 2);
}

#[test]
fn waiters_take_memory_until_the_last_one_is_dropped() {
    let flight = Flight::new("leak");
    poll_once(flight.run(key(0), || ready(Ok(key(0))))).unwrap();
    let before = live_bytes();
    let mut calls: Vec<Call<'_>> = Vec::new();
    for number in 0..1_000 {
        let mut call: Call<'_> = Box::pin(flight.run(key(number % 100), pending));
        assert!(poll(call.as_mut()).is_pending());
        calls.push(call);
    }
    assert!(live_bytes() - before > 10_000, "the test measures nothing");
    drop(calls);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn slots_are_reused_while_one_caller_waits() {
    let flight = Flight::new("leak");
    poll_once(flight.run(key(0), || ready(Ok(key(0))))).unwrap();
    let before = live_bytes();
    let mut waiting: Call<'_> = Box::pin(flight.run(key(0), pending));
    assert!(poll(waiting.as_mut()).is_pending());
    for number in 0..KEYS {
        // Another caller of the same key, and a caller of another key.
        for number in [0, number + 1] {
            let mut cancelled: Call<'_> = Box::pin(flight.run(key(number), pending));
            assert!(poll(cancelled.as_mut()).is_pending());
        }
    }
    assert!(live_bytes() - before < 4_096, "{} bytes for one caller", live_bytes() - before);
    drop(waiting);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn dropped_flight_leaves_no_memory() {
    let before = live_bytes();
    for fate in FATES {
        let runtime = paused();
        let flight = flight(fate);
        runtime.block_on(unconstrained(play(&flight, fate, 0..100, 2)));
    }
    // The thread and the runtime have made their one-time allocations.
    let once = live_bytes();
    for fate in FATES {
        let runtime = paused();
        let flight = flight(fate);
        runtime.block_on(unconstrained(play(&flight, fate, 0..100, 2)));
    }
    assert_eq!(live_bytes() - once, 0, "{} bytes once", once - before);
}

#[test]
fn run_that_completes_at_once_allocates_only_its_work() {
    let flight = SingleFlight::<u64, u64>::new("frugal");
    // The first call allocates the table and the thread's list of the runs that it is inside.
    poll_once(flight.run(7, || ready(Ok(7)))).unwrap();
    assert_eq!(allocations_of(|| poll_once(flight.run(7, || ready(Ok(7)))).unwrap()), 1);
    assert_eq!(allocations_of(|| flight.stats()), 0);
}

#[test]
fn refusal_allocates_nothing() {
    let flight = SingleFlight::<u64, u64>::builder("full").max_waiters(0).build();
    let mut first = Box::pin(flight.run(7, pending));
    assert!(poll(first.as_mut()).is_pending());
    assert_eq!(allocations_of(|| poll_once(flight.run(7, pending)).unwrap_err()), 0);
}
