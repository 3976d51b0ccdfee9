//! The limit on the time that a caller waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use onelane::EndpointGuard;
use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use super::assert_idle;
use crate::SECOND;

const LIMIT: Duration = Duration::from_secs(2);

fn patient() -> EndpointGuard {
    EndpointGuard::builder("patient").max_wait(LIMIT).build()
}

#[tokio::test(start_paused = true)]
async fn timeout_reports_how_long_the_caller_waited() {
    let guard = patient();
    let permit = guard.acquire().await.unwrap();
    let start = Instant::now();
    let error = guard.acquire().await.unwrap_err();
    assert_eq!(error, AcquireErrorKind::Timeout);
    let waited = error.waited().expect("the caller waited");
    // tokio's timers have a resolution of one millisecond.
    let fine = Duration::from_millis(2);
    assert!((LIMIT..LIMIT + fine).contains(&waited), "{waited:?}");
    assert!((LIMIT..LIMIT + fine).contains(&start.elapsed()));
    let GuardStats { waiting, timed_out, cancelled, .. } = guard.stats();
    assert_eq!((waiting, timed_out, cancelled), (0, 1, 0));
    drop(permit);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn limit_starts_at_the_first_poll() {
    let guard = patient();
    let permit = guard.acquire().await.unwrap();
    let late = guard.acquire();
    sleep(3 * LIMIT).await;
    let mut late = task::spawn(late);
    assert_pending!(late.poll());
    advance(LIMIT / 2).await;
    assert_pending!(late.poll());
    drop(permit);
    drop(assert_ready_ok!(late.poll()));
}

#[tokio::test(start_paused = true)]
async fn permit_granted_before_the_timeout_is_observed_wins() {
    let guard = patient();
    let permit = guard.acquire().await.unwrap();
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    advance(2 * LIMIT).await;
    assert!(caller.is_woken(), "the timer fired");
    drop(permit);
    drop(assert_ready_ok!(caller.poll()));
    assert_eq!(guard.stats().timed_out, 0);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn timed_out_waiter_takes_no_permit() {
    let guard = patient();
    let permit = guard.acquire().await.unwrap();
    let mut first = task::spawn(guard.acquire());
    assert_pending!(first.poll());
    advance(LIMIT / 2).await;
    let mut second = task::spawn(guard.acquire());
    assert_pending!(second.poll());
    advance(LIMIT / 2 + Duration::from_millis(2)).await;
    assert_eq!(assert_ready_err!(first.poll()), AcquireErrorKind::Timeout);
    drop(permit);
    drop(assert_ready_ok!(second.poll()));
    assert_idle(&guard);
}

#[test]
fn free_guard_needs_no_timer() {
    let guard = patient();
    let permit = assert_ready_ok!(task::spawn(guard.acquire()).poll());
    // A busy guard does. A caller that cannot start its timer does not stay in the queue.
    let mut caller = task::spawn(guard.acquire());
    assert!(catch_unwind(AssertUnwindSafe(|| caller.poll())).is_err());
    drop(caller);
    assert_eq!(guard.stats().waiting, 0);
    drop(permit);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn limit_beyond_the_range_of_the_clock_never_expires() {
    let guard = EndpointGuard::builder("for ever").max_wait(Duration::MAX).grant_timeout(Duration::MAX).build();
    let permit = guard.acquire().await.unwrap();
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    advance(1_000_000 * SECOND).await;
    assert_pending!(caller.poll());
    drop(permit);
    drop(assert_ready_ok!(caller.poll()));
}

#[test]
fn blocking_caller_times_out_too() {
    // Real time, because a parked thread has no other clock.
    const SHORT: Duration = Duration::from_millis(20);
    let guard = EndpointGuard::builder("short").max_wait(SHORT).build();
    let permit = guard.acquire_blocking().unwrap();
    let error = guard.acquire_blocking().unwrap_err();
    assert_eq!(error, AcquireErrorKind::Timeout);
    let waited = error.waited().expect("the caller waited");
    assert!(waited >= SHORT, "{waited:?}");
    assert_eq!((guard.stats().waiting, guard.stats().timed_out), (0, 1));
    drop(permit);
    assert_idle(&guard);
}

#[tokio::test]
async fn error_text_has_milliseconds_and_the_error_has_all_digits() {
    let limit = Duration::from_nanos(1_234_567);
    let guard = EndpointGuard::builder("patient").max_wait(limit).build();
    let _permit = guard.acquire().await.unwrap();
    let error = guard.acquire().await.unwrap_err();
    let text = error.to_string();
    let within = text.split_once("within ").unwrap().1.split_once("ms").unwrap().0;
    assert!(within.parse::<u64>().is_ok(), "{text}");
    assert!(error.waited().unwrap() >= limit, "{error:?}");
}
