//! The contract of [`SingleFlight`], one module per rule.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod cancellation;
mod close;
mod detached;
mod exclusion;
mod failures;
mod forget;
mod keys;
mod last_caller;
mod limits;
mod nesting;
mod reporting;
mod runtimes;
mod values;

use std::any::Any;
use std::future::{Future, poll_fn, ready};
use std::hash::Hash;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::Poll;

use onelane::guard::FlightStats;
use onelane::{FlightError, SingleFlight};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready_ok, task};

use support::leak;

type Flight<K = u32, T = u64> = SingleFlight<K, T, &'static str>;
type WorkResult = Result<u64, &'static str>;
type Shared = Result<u64, FlightError<&'static str>>;
type Call = Pin<Box<dyn Future<Output = Shared> + Send>>;
type Caller = task::Spawn<Call>;

fn flight() -> &'static Flight {
    leak(Flight::new("flight"))
}

fn call(flight: &'static Flight, key: u32, work: impl Future<Output = WorkResult> + Send + 'static) -> Call {
    Box::pin(flight.run(key, move || work))
}

/// Returns a caller that is polled by hand.
fn caller(flight: &'static Flight, key: u32, work: impl Future<Output = WorkResult> + Send + 'static) -> Caller {
    task::spawn(call(flight, key, work))
}

/// Returns a caller that joins a run in progress once it is polled.
fn joiner(flight: &'static Flight, key: u32) -> Caller {
    caller(flight, key, async { panic!("the work of a follower never runs") })
}

/// Returns a caller that has joined a run in progress.
fn joined(flight: &'static Flight, key: u32) -> Caller {
    let mut caller = joiner(flight, key);
    assert_pending!(caller.poll());
    caller
}

/// Returns work that completes with the value that is sent to it.
fn on_demand() -> (oneshot::Sender<u64>, impl Future<Output = WorkResult> + Send + 'static) {
    let (sender, receiver) = oneshot::channel();
    (sender, async move { receiver.await.map_err(|_| "the sender was dropped") })
}

/// Calls a closure when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Panics without calling the panic hook, so that no message is printed.
fn quiet_panic(payload: impl Any + Send) -> ! {
    resume_unwind(Box::new(payload))
}

fn message(shared: Shared) -> String {
    match shared {
        Err(error) if error.panic().is_some() => error.panic().unwrap().message().to_owned(),
        other => panic!("the work should have panicked: {other:?}"),
    }
}

/// Yields once. Unlike tokio's `yield_now`, it wakes its task before it returns.
async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Yields often enough for the other tasks of the runtime to do all that needs no time.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

fn assert_idle<K, T, E>(flight: &SingleFlight<K, T, E>)
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    let FlightStats { running, waiting, .. } = flight.stats();
    assert_eq!((running, waiting, flight.len()), (0, 0, 0));
    assert!(flight.is_empty());
}

/// Asserts that a call of the key starts a new run.
fn assert_starts_fresh(flight: &'static Flight, key: u32) {
    let before = flight.stats().runs;
    let mut fresh = caller(flight, key, ready(Ok(12_345)));
    assert_eq!(assert_ready_ok!(fresh.poll()), 12_345);
    assert_eq!(flight.stats().runs, before + 1);
}
