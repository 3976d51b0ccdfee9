//! The work and its output are dropped before the permit is released, so that no other caller runs meanwhile.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use onelane::EndpointGuard;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready_ok, task};

use support::leak;
use support::waiting::yield_until;

use super::assert_idle;

thread_local! {
    static HELD_AT_DROP: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Records how many permits are held when it is dropped.
#[derive(Debug)]
struct RecordsHeld(&'static EndpointGuard);

impl Drop for RecordsHeld {
    fn drop(&mut self) {
        HELD_AT_DROP.set(Some(self.0.stats().held));
    }
}

/// Keeps its state after it has completed, as a future written by hand may.
struct ByHand(#[expect(dead_code, reason = "kept for its drop")] RecordsHeld, Poll<()>);

impl Future for ByHand {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.1
    }
}

fn fresh() -> &'static EndpointGuard {
    HELD_AT_DROP.set(None);
    leak(EndpointGuard::new("drop order"))
}

fn assert_dropped_while_held(guard: &EndpointGuard) {
    assert_eq!(HELD_AT_DROP.get(), Some(1));
    assert_idle(guard);
}

#[test]
fn cancelled_work_is_dropped_before_the_permit_is_released() {
    let guard = fresh();
    let mut run = task::spawn(guard.run(ByHand(RecordsHeld(guard), Poll::Pending)));
    assert_pending!(run.poll());
    drop(run);
    assert_dropped_while_held(guard);

    let guard = fresh();
    let mut run = task::spawn(guard.run_to_completion(ByHand(RecordsHeld(guard), Poll::Pending)));
    assert_pending!(run.poll());
    drop(run);
    assert_dropped_while_held(guard);
}

#[test]
fn finished_work_is_dropped_before_the_permit_is_released() {
    let guard = fresh();
    let mut run = task::spawn(guard.run(ByHand(RecordsHeld(guard), Poll::Ready(()))));
    assert_ready_ok!(run.poll());
    assert_dropped_while_held(guard);

    let guard = fresh();
    let mut run = task::spawn(guard.run_to_completion(ByHand(RecordsHeld(guard), Poll::Ready(()))));
    assert_ready_ok!(run.poll());
    assert_dropped_while_held(guard);
}

#[test]
fn panicking_work_is_dropped_before_the_permit_is_released() {
    let guard = fresh();
    let records = RecordsHeld(guard);
    let mut run = task::spawn(guard.run(async move {
        let _records = records;
        panic!("in the work");
    }));
    assert!(catch_unwind(AssertUnwindSafe(|| run.poll())).is_err());
    assert_dropped_while_held(guard);
}

#[tokio::test(start_paused = true)]
async fn output_of_a_detached_run_is_dropped_before_the_permit_is_released() {
    let guard = fresh();
    let mut run = task::spawn(guard.run_to_completion(async {
        yield_now().await;
        RecordsHeld(guard)
    }));
    assert_pending!(run.poll());
    drop(run);
    // No caller waits for the permit: otherwise it would be held again at once.
    yield_until(|| guard.stats().held == 0).await;
    assert_dropped_while_held(guard);
}
