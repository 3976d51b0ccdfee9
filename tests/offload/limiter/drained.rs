//! When a closed limiter is drained.

use onelane::{BlockingPool, CapacityLimiter};
use support::waiting::{Gate, soon};
use tokio_test::{assert_pending, assert_ready, task};

use super::rules::queued;

#[test]
fn completes_when_the_limiter_is_closed_and_the_last_token_is_released() {
    let limiter = CapacityLimiter::with_reserve(1, 1);
    let (ordinary, reserved) = (limiter.try_acquire().unwrap(), limiter.try_acquire_reserved().unwrap());
    let mut drained = task::spawn(limiter.drained());
    assert_pending!(drained.poll());
    limiter.close();
    assert_pending!(drained.poll());
    drop(ordinary);
    assert_pending!(drained.poll());
    drop(reserved);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
    assert_ready!(task::spawn(limiter.drained()).poll());
}

#[test]
fn idle_limiter_is_drained_by_its_close_and_not_before() {
    let limiter = CapacityLimiter::new(1);
    let mut drained = task::spawn(limiter.drained());
    assert_pending!(drained.poll());
    drop(limiter.try_acquire().unwrap());
    assert_pending!(drained.poll());
    limiter.close();
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}

#[test]
fn grant_that_is_not_taken_holds_its_token_until_its_future_is_dropped() {
    let limiter = CapacityLimiter::new(1);
    let held = limiter.try_acquire().unwrap();
    let granted = queued(&limiter, 1);
    drop(held);
    limiter.close();
    let mut drained = task::spawn(limiter.drained());
    assert_pending!(drained.poll());
    drop(granted);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}

#[tokio::test]
async fn token_of_a_pool_counts_until_its_task_has_returned() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let gate = Gate::default();
    let running = gate.fill(&pool, 1).await;
    pool.limiter().close();
    let mut drained = task::spawn(pool.limiter().drained());
    assert_pending!(drained.poll());
    gate.open();
    soon("the limiter is drained", drained).await;
    assert_eq!(pool.limiter().stats().borrowed, 0);
    drop(running);
}
