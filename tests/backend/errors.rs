//! What callers get if there is no turn.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use onelane::backend::{BackendError, WhenUnavailable};
use onelane::guard::AcquireErrorKind;
use onelane::{EndpointGuard, KeyedGuard, Queue};
use support::http::eventually;
use tokio::time::timeout;
use tokio_test::task;

use super::in_memory::{Flaw, InMemory, Store};
use super::{MS, PATIENCE, domain, guard};

const LEASE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn domain_that_is_not_connected_refuses_callers() {
    let locks = domain(|domain| domain);
    let guard = guard(locks);
    let error = guard.acquire().await.unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::NotConnected);
    assert!(error.to_string().contains("LockDomain::connect"), "{error}");
    assert_eq!((guard.stats().held, guard.stats().refused), (0, 1));

    let store = Arc::default();
    locks.connect(InMemory::new(&store, LEASE)).await.unwrap();
    drop(guard.acquire().await.unwrap());
    locks.disconnect().await;
    assert_eq!(guard.acquire().await.unwrap_err().kind(), AcquireErrorKind::NotConnected);
    locks.connect(InMemory::new(&store, LEASE)).await.unwrap();
    drop(guard.acquire().await.unwrap());
}

/// A program whose `main` returns the error prints its `Debug` output.
#[test]
fn debug_output_of_an_error_includes_its_sources() {
    let error = BackendError::new("the store can't be reached").with_source("connection refused");
    assert_eq!(format!("{error:?}"), "the store can't be reached: connection refused");
    assert_eq!(error.to_string(), "the store can't be reached");
}

#[tokio::test]
async fn domain_connects_once() {
    let locks = domain(|domain| domain);
    locks.connect(InMemory::new(&Arc::default(), LEASE)).await.unwrap();
    let error = locks.connect(InMemory::new(&Arc::default(), LEASE)).await.unwrap_err();
    assert!(error.to_string().contains("disconnect it first"), "{error}");
}

#[tokio::test]
async fn lease_that_is_too_short_is_refused() {
    let error = domain(|domain| domain).connect(InMemory::new(&Arc::default(), MS * 5)).await.unwrap_err();
    assert!(error.to_string().contains("shorter than 100 ms"), "{error}");

    let store = Arc::<Store>::default();
    store.answer_after(MS * 40);
    let error = domain(|domain| domain).connect(InMemory::new(&store, MS * 200)).await.unwrap_err();
    assert!(error.to_string().contains("too short for a store that takes"), "{error}");
    domain(|domain| domain).connect(InMemory::new(&store, LEASE)).await.unwrap();
}

#[tokio::test]
async fn try_acquire_needs_a_local_guard() {
    let locks = domain(|domain| domain);
    locks.connect(InMemory::new(&Arc::default(), LEASE)).await.unwrap();
    let error = guard(locks).try_acquire().unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::NotLocal);
    assert!(error.to_string().contains("acquire().await, with Queue::Reject"), "{error}");
    let keyed = KeyedGuard::<u32>::builder("user").distributed(locks).build();
    assert_eq!(keyed.try_acquire(1).unwrap_err().kind(), AcquireErrorKind::NotLocal);
}

#[tokio::test]
async fn distributed_guard_has_one_permit() {
    let locks = domain(|domain| domain);
    let error = EndpointGuard::builder("report").permits(2).distributed(locks).try_build().unwrap_err();
    assert!(error.to_string().contains("one caller at a time"), "{error}");
}

#[tokio::test]
async fn guard_without_a_queue_refuses_at_once_while_another_process_is_inside() {
    let store = Arc::default();
    let (here, there) = (domain(|domain| domain), domain(|domain| domain));
    here.connect(InMemory::new(&store, LEASE)).await.unwrap();
    there.connect(InMemory::new(&store, LEASE)).await.unwrap();
    let elsewhere = guard(there);
    let _inside = elsewhere.acquire().await.unwrap();
    let guard = EndpointGuard::builder("report").queue(Queue::Reject).distributed(here).build();
    let error = timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::Busy);
    assert_eq!(guard.stats().held, 0);
}

#[tokio::test]
async fn store_that_panics_while_a_caller_waits_is_unavailable() {
    let store = Arc::default();
    let (here, there) = (domain(|domain| domain), domain(|domain| domain));
    here.connect(InMemory { flaw: Flaw::PanicsInReleased, ..InMemory::new(&store, LEASE) }).await.unwrap();
    there.connect(InMemory::new(&store, LEASE)).await.unwrap();
    let (guard, elsewhere) = (guard(here), guard(there));
    let inside = elsewhere.acquire().await.unwrap();
    let error = timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::Unavailable);
    drop(inside);
    drop(guard.acquire().await.unwrap());
}

#[tokio::test]
async fn max_wait_limits_the_wait_for_other_processes() {
    let store = Arc::default();
    let (here, there) = (domain(|domain| domain), domain(|domain| domain));
    here.connect(InMemory::new(&store, LEASE)).await.unwrap();
    there.connect(InMemory::new(&store, LEASE)).await.unwrap();
    let elsewhere = guard(there);
    let _inside = elsewhere.acquire().await.unwrap();
    let guard = EndpointGuard::builder("report").max_wait(MS * 80).distributed(here).build();
    let error = timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::Timeout);
    assert!(error.waited().unwrap() >= MS * 80);
    let error = tokio::task::spawn_blocking(move || guard.acquire_blocking().unwrap_err().kind()).await.unwrap();
    assert_eq!(error, AcquireErrorKind::Timeout);
}

#[tokio::test]
async fn max_wait_ends_the_wait_for_a_store_that_hangs() {
    let store = Arc::<Store>::default();
    let locks = domain(|domain| domain);
    locks.connect(InMemory::new(&store, LEASE)).await.unwrap();
    let guard = EndpointGuard::builder("report").max_wait(MS * 80).distributed(locks).build();
    store.hang().await;
    let error = timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::Timeout);
    store.answer_again();
    drop(timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap());
}

#[tokio::test]
async fn store_that_fails_refuses_callers_or_lets_them_run_alone() {
    let store = Arc::<Store>::default();
    let (strict, lenient) =
        (domain(|domain| domain), domain(|domain| domain.when_unavailable(WhenUnavailable::FailLocal)));
    strict.connect(InMemory::new(&store, LEASE)).await.unwrap();
    lenient.connect(InMemory::new(&store, LEASE)).await.unwrap();
    store.fail(true);
    let error = guard(strict).acquire().await.unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::Unavailable);
    assert_eq!(error.source().unwrap().to_string(), "the test wants an error");
    let guard = guard(lenient);
    let permit = guard.acquire().await.unwrap();
    assert!(permit.lease().is_none());
    assert_eq!(guard.stats().held, 1);
    drop(permit);
    store.fail(false);
    assert!(guard.acquire().await.unwrap().lease().is_some());
}

#[tokio::test]
async fn caller_that_leaves_during_its_attempt_makes_no_other_caller_find_the_guard_busy() {
    let store = Arc::<Store>::default();
    let locks = domain(|domain| domain);
    locks.connect(InMemory::new(&store, LEASE)).await.unwrap();
    let guard = EndpointGuard::builder("report").queue(Queue::Reject).distributed(locks).build();
    store.hang().await;
    for _ in 0..3 {
        // The first caller leaves during its attempt, and the other callers leave while they wait for the end of this
        // attempt.
        let mut leaving = task::spawn(guard.acquire());
        assert!(leaving.poll().is_pending());
    }
    let mut staying = task::spawn(guard.acquire());
    assert!(staying.poll().is_pending());
    store.answer_again();
    drop(timeout(PATIENCE, staying).await.unwrap().unwrap());
    eventually("nothing is left", || store.held() == 0 && format!("{locks:?}").contains("parked: 0,")).await;
    assert_eq!(store.attempts(), 2);
}

#[tokio::test]
async fn attempt_without_a_caller_leaves_nothing() {
    let store = Arc::<Store>::default();
    let locks = domain(|domain| domain);
    locks.connect(InMemory::new(&store, LEASE)).await.unwrap();
    let keyed = KeyedGuard::<u32>::builder("user").distributed(locks).build();
    store.hang().await;
    for key in 0..50 {
        for _ in 0..2 {
            let mut leaving = task::spawn(keyed.acquire(key));
            assert!(leaving.poll().is_pending());
        }
    }
    assert!(format!("{locks:?}").contains("parked: 50,"), "{locks:?}");
    store.answer_again();
    let is_empty = || format!("{locks:?}").contains("parked: 0,");
    eventually("nothing is left", || store.attempts() == 50 && store.held() == 0 && is_empty()).await;
}

#[tokio::test]
async fn store_that_panics_is_unavailable_and_keeps_no_lock() {
    let store = Arc::<Store>::default();
    let locks = domain(|domain| domain);
    locks.connect(InMemory::new(&store, MS * 300)).await.unwrap();
    let guard = guard(locks);
    store.panic(true);
    let error = guard.acquire().await.unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::Unavailable);
    assert!(error.source().unwrap().to_string().contains("the test wants a panic"), "{error:?}");
    store.panic(false);
    let permit = guard.acquire().await.unwrap();
    store.panic(true);
    timeout(PATIENCE, permit.lease().unwrap().lost().cancelled()).await.unwrap();
    assert!(permit.release().await.is_err());
    store.panic(false);
    drop(timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap());
}
