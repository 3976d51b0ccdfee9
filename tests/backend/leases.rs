//! Leases: renewed, lost, limited.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onelane::backend::{LockDomain, OnLost};
use onelane::guard::AcquireErrorKind;
use support::http::eventually;
use tokio::time::{sleep, timeout};
use tokio_test::task;

use super::in_memory::{InMemory, Store};
use super::{PATIENCE, domain, guard};

const LEASE: Duration = Duration::from_millis(300);

async fn connected(store: &Arc<Store>, settings: impl FnOnce(LockDomain) -> LockDomain) -> &'static LockDomain {
    let locks = domain(settings);
    locks.connect(InMemory::new(store, LEASE)).await.unwrap();
    locks
}

#[tokio::test]
async fn lease_is_renewed_while_the_runtime_is_blocked() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store, |domain| domain).await);
    let permit = guard.acquire().await.unwrap();
    let deadline = permit.lease().unwrap().deadline().unwrap();
    std::thread::sleep(LEASE * 4);
    assert!(!permit.lease().unwrap().is_lost());
    assert!(permit.lease().unwrap().deadline().unwrap() > deadline);
    assert!(store.renewals.load(Ordering::Relaxed) >= 3);
    drop(permit);
    eventually("the lock is released", || store.held() == 0).await;
}

#[tokio::test]
async fn lease_is_lost_by_the_clock_if_the_store_is_silent() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store, |domain| domain).await);
    let permit = guard.acquire().await.unwrap();
    let lease = permit.lease().unwrap().clone();
    store.hang().await;
    timeout(PATIENCE, lease.lost().cancelled()).await.unwrap();
    assert!(lease.is_lost());
    store.answer_again();
    drop(permit);
}

#[tokio::test]
async fn lease_is_renewed_again_after_errors_that_pass() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store, |domain| domain).await);
    let permit = guard.acquire().await.unwrap();
    store.fail(true);
    sleep(LEASE / 2).await;
    store.fail(false);
    sleep(LEASE * 2).await;
    assert!(!permit.lease().unwrap().is_lost());
}

#[tokio::test]
async fn holder_learns_that_the_store_has_forgotten_its_lock() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store, |domain| domain).await);
    let permit = guard.acquire().await.unwrap();
    let lease = permit.lease().unwrap().clone();
    store.forget_locks();
    timeout(PATIENCE, lease.lost().cancelled()).await.unwrap();
    drop(permit);
    drop(guard.acquire().await.unwrap());
}

#[tokio::test]
async fn max_hold_ends_the_renewals() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store, |domain| domain.max_hold(LEASE)).await);
    let permit = guard.acquire().await.unwrap();
    timeout(PATIENCE, permit.lease().unwrap().lost().cancelled()).await.unwrap();
    eventually("the lease expires in the store", || store.held() == 0).await;
}

/// The first caller holds the lock for longer than `max_hold`, so that its lease is not renewed any more.
#[tokio::test]
async fn lease_is_renewed_for_the_caller_that_the_turn_is_passed_on_to() {
    let store = Arc::<Store>::default();
    let lease = LEASE * 4;
    let locks = domain(|domain| domain.max_hold(LEASE).cohort(16, PATIENCE));
    locks.connect(InMemory::new(&store, lease)).await.unwrap();
    let guard = Arc::new(guard(locks));
    let permit = Arc::clone(&guard).acquire_owned().await.unwrap();
    let mut next = task::spawn(Arc::clone(&guard).acquire_owned());
    assert!(next.poll().is_pending());
    sleep(LEASE * 2).await;
    drop(permit);
    let permit = timeout(PATIENCE, next).await.unwrap().unwrap();
    let renewals = || store.renewals.load(Ordering::Relaxed);
    assert_eq!(store.attempts(), 1);
    eventually("the lease is renewed", || renewals() > 0 || permit.lease().unwrap().is_lost()).await;
    assert!(!permit.lease().unwrap().is_lost());
}

#[tokio::test]
async fn lease_ends_with_its_permit() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store, |domain| domain.on_lost(OnLost::Notify)).await);
    let permit = guard.acquire().await.unwrap();
    let lease = permit.lease().unwrap().clone();
    assert!(!lease.is_lost());
    drop(permit);
    assert!(lease.is_lost());
    lease.lost().cancelled().await;
}

#[tokio::test]
async fn answer_after_the_end_of_its_lease_grants_no_turn() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store, |domain| domain).await);
    store.hang().await;
    let acquiring = tokio::spawn(async move {
        let permit = guard.acquire().await;
        permit.map(|permit| permit.lease().unwrap().is_lost())
    });
    sleep(LEASE * 2).await;
    store.answer_again();
    // The call was given up before the end of the lease.
    let result = timeout(PATIENCE, acquiring).await.unwrap().unwrap();
    assert_eq!(result.unwrap_err().kind(), AcquireErrorKind::Unavailable);
    eventually("the late lock is released", || store.held() == 0).await;
}

#[tokio::test]
async fn store_that_hangs_is_unavailable() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store, |domain| domain).await);
    let permit = guard.acquire().await.unwrap();
    store.hang().await;
    sleep(LEASE / 2).await;
    store.answer_again();
    sleep(LEASE).await;
    assert!(!permit.lease().unwrap().is_lost(), "a renewal that hung was repeated");
    drop(permit);
    eventually("the lock is released", || store.held() == 0).await;
    store.hang().await;
    let error = timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::Unavailable);
    store.answer_again();
}
