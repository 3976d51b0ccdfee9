//! The estimate of when a refused caller should retry.

use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::{AcquireError, EndpointGuard, Queue};
use tokio::time::advance;
use tokio_test::{assert_pending, task};

use crate::{SECOND, is_full};

const HOLD: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn is_the_mean_hold_times_the_callers_ahead_divided_by_the_permits() {
    for permits in [1, 2, 5] {
        let guard = EndpointGuard::builder("measured").permits(permits).queue(Queue::Bounded(3)).build();
        let mut held = Vec::new();
        for _ in 0..permits {
            held.push(guard.try_acquire().unwrap());
        }
        let error = guard.try_acquire().unwrap_err();
        assert_eq!((error.retry_after(), guard.stats().mean_hold), (None, None), "no hold was measured yet");
        for _ in 0..3 {
            held.clear();
            for _ in 0..permits {
                held.push(guard.try_acquire().unwrap());
            }
            assert!(guard.try_acquire().is_err(), "a refusal makes the next hold be measured");
            advance(HOLD).await;
        }
        assert_eq!(guard.stats().mean_hold, Some(HOLD));

        let per_permit = HOLD / u32::try_from(permits).unwrap();
        assert_eq!(guard.try_acquire().unwrap_err().retry_after(), Some(per_permit));
        let mut waiting: Vec<_> = (0..3).map(|_| task::spawn(guard.acquire())).collect();
        for caller in &mut waiting {
            assert_pending!(caller.poll());
        }
        let error = guard.acquire().await.unwrap_err();
        assert!(is_full(&error));
        assert_eq!(error.retry_after(), Some(4 * HOLD / u32::try_from(permits).unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn follows_holds_that_change() {
    let guard = EndpointGuard::new("changing");
    for hold in [HOLD, 5 * HOLD] {
        let first = guard.try_acquire().unwrap();
        assert!(guard.try_acquire().is_err());
        drop(first);
        let _timed = guard.try_acquire().unwrap();
        advance(hold).await;
    }
    // The mean moves a quarter of the way to the new sample.
    assert_eq!(guard.stats().mean_hold, Some(2 * HOLD));
}

#[tokio::test(start_paused = true)]
async fn is_reported_with_a_timeout_too() {
    let guard = EndpointGuard::builder("timeout").max_wait(SECOND).build();
    for _ in 0..2 {
        let _permit = guard.try_acquire().unwrap();
        assert!(guard.try_acquire().is_err());
        advance(HOLD).await;
    }
    let _permit = guard.try_acquire().unwrap();
    let mut other = task::spawn(guard.acquire());
    assert_pending!(other.poll());
    let error = guard.acquire().await.unwrap_err();
    assert!((error.kind() == AcquireErrorKind::Timeout));
    assert_eq!(error.retry_after(), Some(2 * HOLD), "one waiter is still ahead");
}

#[test]
fn is_none_where_a_retry_does_not_help() {
    use AcquireErrorKind::{BlockingInAsync, Closed, GrantExpired, WouldDeadlock};
    for kind in [BlockingInAsync, Closed, GrantExpired, WouldDeadlock] {
        assert_eq!(AcquireError::from(kind).retry_after(), None);
    }
}
