//! Panics of a holder.

use std::pin::pin;
use std::sync::Arc;
use std::thread;

use onelane::EndpointGuard;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready_ok, task};

use support::leak;
use support::polling::poll_caught;

use super::assert_idle;
use crate::in_time;

#[test]
fn panic_in_run_releases_the_permit_while_the_future_is_kept() {
    let guard = EndpointGuard::new("panic");
    let mut run = pin!(guard.run(async { panic!("in the work") }));
    assert!(poll_caught(run.as_mut()).is_err());
    assert_idle(&guard);
    assert_eq!(guard.stats().panicked, 1);
    drop(guard.try_acquire().unwrap());
    // The thread no longer counts as inside the guard: a caller that finds the guard full waits.
    let _permit = guard.try_acquire().unwrap();
    assert_pending!(task::spawn(guard.acquire()).poll());
}

#[test]
fn panic_in_run_to_completion_releases_the_permit_while_the_future_is_kept() {
    let guard = leak(EndpointGuard::new("panic"));
    let mut run = pin!(guard.run_to_completion(async { panic!("in the work") }));
    assert!(poll_caught(run.as_mut()).is_err());
    assert_idle(guard);
    assert_eq!(guard.stats().panicked, 1);
}

#[test]
fn panic_on_another_thread_passes_the_permit_to_the_next_waiter() {
    let guard = Arc::new(EndpointGuard::new("panic"));
    let permit = Arc::clone(&guard).try_acquire_owned().unwrap();
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    let holder = thread::spawn(move || {
        let _permit = permit;
        panic!("while it holds the permit");
    });
    assert!(holder.join().is_err());
    drop(assert_ready_ok!(caller.poll()));
    assert_eq!(guard.stats().panicked, 1);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn panic_in_a_task_passes_the_permit_to_the_next_waiter() {
    let guard = leak(EndpointGuard::new("panic"));
    let holder = tokio::spawn(async {
        let _permit = guard.acquire().await.unwrap();
        yield_now().await;
        panic!("while it holds the permit");
    });
    yield_now().await;
    drop(in_time(guard.acquire()).await.unwrap());
    assert!(holder.await.unwrap_err().is_panic());
    assert_eq!(guard.stats().panicked, 1);
    assert_idle(guard);
}
