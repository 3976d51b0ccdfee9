//! Wakers that panic: every waker is called, the first panic propagates, and no panic aborts the process.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use onelane::CapacityLimiter;
use onelane::offload::LimiterError;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use support::polling::PanickingWaker;

use super::rules::{assert_idle, queued};

/// Polls a future with a waker that panics, and returns the future.
fn waits<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    let waker = Waker::from(Arc::new(PanickingWaker));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    future
}

/// Returns the payload with which `work` panics.
fn caught(work: impl FnOnce()) -> Option<&'static str> {
    let payload = catch_unwind(AssertUnwindSafe(work)).err()?;
    payload.downcast_ref::<&str>().copied()
}

#[test]
fn raising_the_total_wakes_every_waiter() {
    let changes: [fn(&CapacityLimiter); 2] =
        [|limiter| limiter.set_total(3), |limiter| assert_eq!(limiter.update_total(|total| total + 3), 3)];
    for change in changes {
        let limiter = CapacityLimiter::new(0);
        let panicking = [0; 2].map(|_| waits(limiter.acquire()));
        let mut last = queued(&limiter, 1);
        assert_eq!(caught(|| change(&limiter)), Some("woken"));
        assert!(last.is_woken());
        drop(assert_ready_ok!(last.poll()));
        drop(panicking);
        assert_eq!(limiter.total(), 3);
        assert_idle(&limiter);
    }
}

#[test]
fn tokens_released_together_go_to_every_waiter() {
    let limiter = CapacityLimiter::new(3);
    let all = limiter.try_acquire_many(3).unwrap();
    let panicking = [0; 2].map(|_| waits(limiter.acquire()));
    let mut last = queued(&limiter, 1);
    assert_eq!(caught(|| drop(all)), Some("woken"));
    drop(assert_ready_ok!(last.poll()));
    drop(panicking);
    assert_idle(&limiter);
}

#[test]
fn permit_released_by_a_panic_is_granted_and_the_panic_goes_on() {
    let limiter = CapacityLimiter::new(1);
    let permit = limiter.try_acquire().unwrap();
    let _waiting = waits(limiter.acquire());
    let panic = caught(|| {
        let _permit = permit;
        resume_unwind(Box::new("the holder panics"));
    });
    assert_eq!((panic, limiter.stats().borrowed), (Some("the holder panics"), 1));
}

#[test]
fn closing_wakes_every_waiter_and_closes_the_reserve() {
    let limiter = CapacityLimiter::with_reserve(1, 1);
    let (held, reserved) = (limiter.try_acquire().unwrap(), limiter.try_acquire_reserved().unwrap());
    let _panicking = [0; 2].map(|_| (waits(limiter.acquire()), waits(limiter.acquire_reserved())));
    let mut last = queued(&limiter, 1);
    let mut last_reserved = task::spawn(limiter.acquire_reserved());
    assert_pending!(last_reserved.poll());
    assert_eq!(caught(|| limiter.close()), Some("woken"));
    assert_eq!(assert_ready_err!(last.poll()), LimiterError::Closed);
    assert_eq!(assert_ready_err!(last_reserved.poll()), LimiterError::Closed);
    drop((held, reserved));
    assert_ready!(task::spawn(limiter.drained()).poll());
}

#[test]
fn every_caller_of_drained_is_notified() {
    let limiter = CapacityLimiter::new(1);
    let permit = limiter.try_acquire().unwrap();
    let _panicking = [0; 2].map(|_| waits(limiter.drained()));
    let mut last = task::spawn(limiter.drained());
    assert_pending!(last.poll());
    limiter.close();
    drop(permit);
    assert!(last.is_woken());
    assert_ready!(last.poll());
}

#[test]
fn closing_a_paused_limiter_notifies_drained_although_a_waiter_panics() {
    let limiter = CapacityLimiter::new(0);
    let _panicking = waits(limiter.acquire());
    let mut drained = task::spawn(limiter.drained());
    assert_pending!(drained.poll());
    assert_eq!(caught(|| limiter.close()), Some("woken"));
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}
