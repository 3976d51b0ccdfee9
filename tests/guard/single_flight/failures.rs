//! Work that fails or panics.

use std::future::{Future, poll_fn, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;

use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};

use support::runtimes::current_thread;

use super::{
    Flight, OnDrop, Shared, WorkResult, assert_idle, assert_starts_fresh, caller, flight, joined, message, quiet_panic,
    settle, yield_once,
};

const WAITERS: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the closure that creates the future.
    Creation,
    FirstPoll,
    LaterPoll,
}

/// A panic payload that panics again when it is dropped.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        quiet_panic("in the destructor of the panic's payload");
    }
}

const PANICS: [(fn(), &str); 4] = [
    (|| quiet_panic("a str"), "a str"),
    (|| quiet_panic(String::from("a String")), "a String"),
    (|| quiet_panic(7_u8), "(no message)"),
    (|| quiet_panic(PanicsInDrop), "(no message)"),
];

/// Plays a run that ends at `place` with `ending`, for a leader and a thousand followers that join before the end.
fn share_an_outcome(place: Place, flight: &'static Flight, ending: fn() -> WorkResult) -> Vec<Shared> {
    let started = Arc::new(AtomicUsize::new(0));
    let waiters = Arc::new(Mutex::new(Vec::new()));
    let add_followers = {
        let waiters = Arc::clone(&waiters);
        move || {
            // On another thread, because on this one they would count as nested in the run.
            let add_followers = || waiters.lock().unwrap().extend((0..WAITERS).map(|_| joined(flight, 0)));
            thread::scope(|scope| scope.spawn(add_followers).join().unwrap());
        }
    };
    let work = {
        let started = Arc::clone(&started);
        move || {
            started.fetch_add(1, Ordering::Relaxed);
            if place == Place::Creation {
                add_followers();
                let _never = ending();
            }
            async move {
                if place == Place::LaterPoll {
                    yield_once().await;
                }
                add_followers();
                ending()
            }
        }
    };
    let mut first = task::spawn(flight.run(0, work));
    if place == Place::LaterPoll {
        assert_pending!(first.poll());
    }
    let mut shared = vec![assert_ready!(first.poll())];
    assert_idle_but_for(flight, WAITERS);
    for mut waiter in waiters.lock().unwrap().drain(..) {
        assert!(waiter.is_woken());
        shared.push(assert_ready!(waiter.poll()));
    }
    assert_eq!(started.load(Ordering::Relaxed), 1);
    assert_idle(flight);
    assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().cancelled), (1, WAITERS as u64, 0));
    assert_starts_fresh(flight, 0);
    shared
}

fn assert_idle_but_for(flight: &Flight, waiting: usize) {
    assert_eq!((flight.len(), flight.stats().waiting), (0, waiting));
}

#[test]
fn panic_reaches_every_caller_and_the_work_is_not_run_again() {
    let runtime = current_thread();
    for has_runtime in [false, true] {
        let _entered = has_runtime.then(|| runtime.enter());
        for place in [Place::Creation, Place::FirstPoll, Place::LaterPoll] {
            for index in [0, 1, 2, 3] {
                let panics: fn() -> WorkResult = match index {
                    0 => || quiet_panic("a str"),
                    1 => || quiet_panic(String::from("a String")),
                    2 => || quiet_panic(7_u8),
                    _ => || quiet_panic(PanicsInDrop),
                };
                let flight = flight();
                let shared = share_an_outcome(place, flight, panics);
                assert_eq!(shared.len(), 1 + WAITERS);
                for one in shared {
                    assert_eq!(message(one), PANICS[index].1, "{place:?}");
                }
                assert_eq!(flight.stats().panicked, 1);
            }
        }
    }
}

#[tokio::test]
async fn panic_in_the_driver_task_reaches_every_caller() {
    for (panic, expected) in PANICS {
        let flight = flight();
        let (finish, receiver) = oneshot::channel::<()>();
        let mut first = caller(flight, 0, async move {
            receiver.await.unwrap();
            panic();
            Ok(7)
        });
        assert_pending!(first.poll());
        let mut all: Vec<_> = unconstrained(async { (0..WAITERS).map(|_| joined(flight, 0)).collect() }).await;
        all.push(first);
        settle().await;
        finish.send(()).unwrap();
        settle().await;
        assert!(all.iter().all(|caller| caller.is_woken()));
        for one in join_all(all).await {
            assert_eq!(message(one), expected);
        }
        assert_eq!((flight.stats().runs, flight.stats().panicked), (1, 1));
        assert_starts_fresh(flight, 0);
    }
}

#[test]
fn all_callers_share_one_error() {
    for place in [Place::FirstPoll, Place::LaterPoll] {
        let flight = flight();
        let shared = share_an_outcome(place, flight, || Err("closed"));
        let errors = shared.into_iter().map(|one| match one {
            Err(error) => error.try_into_failure().expect("the work failed"),
            other => panic!("the work should have failed: {other:?}"),
        });
        let errors: Vec<_> = errors.collect();
        assert_eq!((errors.len(), *errors[0]), (1 + WAITERS, "closed"));
        assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])));
        assert_eq!(Arc::strong_count(&errors[0]), errors.len(), "another reference to the error remains");
        assert_eq!(flight.stats().panicked, 0);
    }
}

#[test]
fn error_of_an_unshared_run_is_returned_at_once() {
    let mut only = caller(flight(), 0, ready(Err("closed")));
    let Err(error) = assert_ready!(only.poll()) else { panic!("the work should have failed") };
    assert_eq!(error.failure(), Some(&"closed"));
}

/// Returns work whose destructor panics, and which completes at once or never.
fn brittle(completes: bool) -> impl Future<Output = WorkResult> + Send + 'static {
    let on_drop = OnDrop(|| quiet_panic("in the destructor of the work"));
    poll_fn(move |cx| {
        let _captured = &on_drop;
        cx.waker().wake_by_ref();
        if completes { Poll::Ready(Ok(7)) } else { Poll::Pending }
    })
}

#[test]
fn panic_in_the_destructor_of_completed_work_does_not_reach_the_callers() {
    let flight = flight();
    let (finish, receiver) = oneshot::channel::<()>();
    let mut first = caller(flight, 0, async move {
        let brittle = brittle(true);
        receiver.await.unwrap();
        brittle.await
    });
    assert_pending!(first.poll());
    let mut second = joined(flight, 0);
    finish.send(()).unwrap();
    // The async block drops the inner future before its own poll returns, so this is a panic of the work.
    assert_eq!(message(assert_ready!(first.poll())), "in the destructor of the work");
    assert_eq!(message(assert_ready!(second.poll())), "in the destructor of the work");

    let mut only = caller(flight, 0, brittle(true));
    assert_eq!(assert_ready_ok!(only.poll()), 7);
    assert_eq!(flight.stats().panicked, 1);
    assert_starts_fresh(flight, 0);
}

#[test]
fn panic_in_the_destructor_of_cancelled_work_does_not_reach_the_cancelled_caller() {
    let runtime = current_thread();
    for has_runtime in [false, true] {
        let _entered = has_runtime.then(|| runtime.enter());
        let flight = flight();
        let mut first = caller(flight, 0, brittle(false));
        assert_pending!(first.poll());
        let second = joined(flight, 0);
        drop(first);
        drop(second);
        assert_idle(flight);
        assert_eq!((flight.stats().cancelled, flight.stats().panicked), (1, 0));
        assert_starts_fresh(flight, 0);
    }
}

#[test]
fn panic_reaches_callers_that_joined_before_the_driver_task_was_polled() {
    let runtime = current_thread();
    let flight = flight();
    runtime.block_on(async {
        let callers = (0..10).map(|_| {
            flight.run(0, || async {
                yield_now().await;
                quiet_panic("in the task")
            })
        });
        for one in join_all(callers).await {
            assert_eq!(message(one), "in the task");
        }
    });
    assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().panicked), (1, 9, 1));
}
