//! The limit on the time that a caller waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use onelane::KeyedGuard;
use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use super::{assert_idle, is_timeout, queued};

const LIMIT: Duration = Duration::from_secs(2);

fn patient() -> KeyedGuard<u32> {
    KeyedGuard::builder("patient").max_wait(LIMIT).build()
}

#[tokio::test(start_paused = true)]
async fn timeout_reports_how_long_the_caller_waited() {
    let guard = patient();
    let permit = guard.acquire(1).await.unwrap();
    let error = guard.acquire(1).await.unwrap_err();
    assert_eq!(error, AcquireErrorKind::Timeout);
    let waited = error.waited().expect("the caller waited");
    // tokio's timers have a resolution of one millisecond.
    assert!((LIMIT..LIMIT + Duration::from_millis(2)).contains(&waited), "{waited:?}");
    let GuardStats { waiting, timed_out, cancelled, .. } = guard.stats();
    assert_eq!((waiting, timed_out, cancelled), (0, 1, 0));
    drop(permit);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn limit_starts_at_the_first_poll_of_each_caller() {
    let guard = patient();
    let permits = [1, 2].map(|key| guard.try_acquire(key).unwrap());
    let mut first = queued(&guard, 1);
    advance(LIMIT / 2).await;
    let mut second = queued(&guard, 1);
    let mut other = queued(&guard, 2);
    advance(LIMIT / 2 + Duration::from_millis(2)).await;
    assert!(is_timeout(&assert_ready_err!(first.poll())));
    assert_pending!(second.poll());
    assert_pending!(other.poll());
    drop(permits);
    drop(assert_ready_ok!(second.poll()));
    drop(assert_ready_ok!(other.poll()));
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn permit_granted_before_the_timeout_is_observed_wins() {
    let guard = patient();
    let permit = guard.try_acquire(1).unwrap();
    let mut caller = queued(&guard, 1);
    advance(2 * LIMIT).await;
    assert!(caller.is_woken(), "the timer fired");
    drop(permit);
    drop(assert_ready_ok!(caller.poll()));
    assert_eq!(guard.stats().timed_out, 0);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn timeout_estimates_the_retry_from_waiters_of_the_same_key() {
    const HOLD: Duration = Duration::from_millis(100);
    let guard = patient();
    for _ in 0..2 {
        let _permit = guard.try_acquire(1).unwrap();
        assert!(guard.try_acquire(1).is_err(), "a refusal makes the next hold be measured");
        advance(HOLD).await;
    }
    let _permits = [1, 2].map(|key| guard.try_acquire(key).unwrap());
    let _of_another = [2; 5].map(|key| queued(&guard, key));
    let mut first = queued(&guard, 1);
    advance(LIMIT / 2).await;
    let _second = queued(&guard, 1);
    assert_eq!(guard.try_acquire(1).unwrap_err().retry_after(), Some(3 * HOLD));
    advance(LIMIT / 2 + Duration::from_millis(2)).await;
    let error = assert_ready_err!(first.poll());
    assert!(is_timeout(&error));
    assert_eq!(error.retry_after(), Some(2 * HOLD), "one waiter of the same key is still ahead");
}

#[test]
fn free_key_needs_no_timer() {
    let guard = patient();
    let permit = assert_ready_ok!(task::spawn(guard.acquire(1)).poll());
    // A busy key does. A caller that cannot start its timer does not stay in the queue.
    let mut caller = task::spawn(guard.acquire(1));
    assert!(catch_unwind(AssertUnwindSafe(|| caller.poll())).is_err());
    drop(caller);
    assert_eq!(guard.stats().waiting, 0);
    drop(permit);
    assert_idle(&guard);
}

#[test]
fn blocking_caller_times_out_too() {
    // Real time, because a parked thread has no other clock.
    const SHORT: Duration = Duration::from_millis(20);
    let guard = KeyedGuard::builder("short").max_wait(SHORT).build();
    let permit = guard.acquire_blocking(1).unwrap();
    let error = guard.acquire_blocking(1).unwrap_err();
    assert_eq!(error, AcquireErrorKind::Timeout);
    let waited = error.waited().expect("the caller waited");
    assert!(waited >= SHORT, "{waited:?}");
    assert_eq!((guard.stats().waiting, guard.stats().timed_out), (0, 1));
    drop(permit);
    assert_idle(&guard);
}
