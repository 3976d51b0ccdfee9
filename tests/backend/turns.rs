//! Turns among processes: one at a time, in all the ways in which a guard is used, and with callers that leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use onelane::KeyedGuard;
use onelane::backend::{Lease, LockDomain};
use support::http::eventually;
use tokio::time::{sleep, timeout};
use tokio_test::task;

use super::in_memory::{InMemory, Store};
use super::{MS, PATIENCE, domain, guard};

const LEASE: Duration = Duration::from_secs(30);

async fn connected(store: &Arc<Store>) -> &'static LockDomain {
    let locks = domain(|domain| domain);
    locks.connect(InMemory::new(store, LEASE)).await.unwrap();
    locks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_four_processes_are_inside_one_at_a_time() {
    let store = Arc::default();
    let (is_inside, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = Vec::new();
    for _ in 0..4 {
        let guard = Arc::new(guard(connected(&store).await));
        for _ in 0..4 {
            let (guard, is_inside, last) = (Arc::clone(&guard), Arc::clone(&is_inside), Arc::clone(&last));
            callers.push(tokio::spawn(async move {
                for _ in 0..25 {
                    let permit = guard.acquire().await.unwrap();
                    assert!(!is_inside.swap(true, Ordering::SeqCst), "two callers are inside");
                    let fence = usize::try_from(permit.lease().unwrap().fence()).unwrap();
                    let before = last.swap(fence, Ordering::SeqCst);
                    assert!(fence > before, "token {fence} after {before}");
                    tokio::task::yield_now().await;
                    is_inside.store(false, Ordering::SeqCst);
                }
            }));
        }
    }
    for caller in timeout(PATIENCE, join_all(callers)).await.unwrap() {
        caller.unwrap();
    }
    eventually("all locks are released", || store.held() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_acquire_takes_the_lock_and_releases_it() {
    let store = Arc::default();
    let locks = connected(&store).await;
    let guard = Arc::new(guard(locks));
    let keyed = Arc::new(KeyedGuard::<u32>::builder("user").distributed(locks).build());
    let is_held = |lease: Option<Lease>| assert!(store.held() == 1 && !lease.expect("a lease").is_lost());

    let permit = guard.acquire().await.unwrap();
    is_held(permit.lease().cloned());
    drop(permit);
    assert_eq!(store.held(), 0);

    guard.run(async { is_held(Lease::current()) }).await.unwrap();
    assert!(Lease::current().is_none());
    Arc::clone(&guard).run_to_completion_owned(async { assert!(Lease::current().is_some()) }).await.unwrap();
    let blocking = Arc::clone(&guard);
    tokio::task::spawn_blocking(move || assert!(blocking.acquire_blocking().unwrap().lease().is_some())).await.unwrap();

    let permit = keyed.acquire(1).await.unwrap();
    is_held(permit.lease().cloned());
    drop(permit);
    keyed.run(2, async { is_held(Lease::current()) }).await.unwrap();
    let permits = keyed.acquire_all([3, 1, 2]).await.unwrap();
    assert_eq!((permits.len(), store.held()), (3, 3));
    drop(permits);
    assert_eq!(store.held(), 0);
    assert!(keyed.is_empty());
}

#[tokio::test]
async fn release_waits_for_the_store() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store).await);
    let permit = guard.acquire().await.unwrap();
    let lease = permit.lease().unwrap().clone();
    store.hang().await;
    let mut release = task::spawn(permit.release());
    assert!(release.poll().is_pending());
    assert!(lease.is_lost(), "another process may hold the lock from now on");
    store.answer_again();
    release.await.unwrap();
    assert_eq!(store.held(), 0);
    store.fail(true);
    assert!(guard.acquire().await.is_err());
}

#[tokio::test]
async fn keys_of_other_guards_and_processes_are_separate() {
    let store = Arc::default();
    let (here, there) = (connected(&store).await, connected(&store).await);
    let keyed = |locks| KeyedGuard::<String>::builder("user").distributed(locks).build();
    let (users_here, users_there) = (keyed(here), keyed(there));
    let _ada = users_here.acquire("ada".to_owned()).await.unwrap();
    let _grace = users_there.acquire("grace".to_owned()).await.unwrap();
    let mut ada = task::spawn(users_there.acquire("ada".to_owned()));
    assert!(ada.poll().is_pending());
    let report = guard(there);
    let _report = report.acquire().await.unwrap();
}

/// Drops a caller at each poll of its acquisition, with a store that answers at once, late or never.
#[tokio::test]
async fn dropped_caller_leaves_nothing_behind() {
    let store = Arc::<Store>::default();
    let (here, there) = (connected(&store).await, connected(&store).await);
    let (guard_here, guard_there) = (guard(here), guard(there));
    for is_held_elsewhere in [false, true] {
        for polls in 0..4 {
            let elsewhere = if is_held_elsewhere { Some(guard_there.acquire().await.unwrap()) } else { None };
            store.hang().await;
            let mut caller = task::spawn(guard_here.acquire());
            for _ in 0..polls {
                let _ = caller.poll();
            }
            drop(caller);
            assert_eq!(guard_here.stats().held, 0);
            store.answer_again();
            drop(elsewhere);
            eventually("the store is free", || store.held() == 0).await;
            drop(timeout(PATIENCE, guard_there.acquire()).await.unwrap().unwrap());
        }
    }
    assert_eq!(guard_here.stats().held + guard_here.stats().waiting, 0);
}

#[tokio::test]
async fn work_that_continues_without_its_caller_keeps_the_lock() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let store = Arc::<Store>::default();
    let guard = Arc::new(guard(connected(&store).await));
    let work = Arc::clone(&guard).run_to_completion_owned(async {
        sleep(MS * 30).await;
        assert!(!Lease::current().expect("work that continues has its lease").is_lost());
        RUNS.fetch_add(1, Ordering::SeqCst);
    });
    let mut caller = task::spawn(work);
    while store.held() == 0 {
        let _ = caller.poll();
        sleep(MS).await;
    }
    drop(caller);
    assert_eq!(store.held(), 1);
    eventually("the work ends", || RUNS.load(Ordering::SeqCst) == 1 && store.held() == 0).await;
}

#[tokio::test]
async fn panic_releases_the_lock() {
    let store = Arc::<Store>::default();
    let guard = Arc::new(guard(connected(&store).await));
    let panicking = Arc::clone(&guard);
    let panicked = tokio::spawn(async move { panicking.run(async { panic!("the work fails") }).await });
    assert!(panicked.await.unwrap_err().is_panic());
    eventually("the lock is released", || store.held() == 0).await;
    drop(guard.acquire().await.unwrap());
}

#[tokio::test]
async fn nested_use_is_refused() {
    let store = Arc::<Store>::default();
    let guard = guard(connected(&store).await);
    let nested = guard.run(async { guard.acquire().await.map(drop) }).await.unwrap();
    assert_eq!(nested.unwrap_err().kind(), onelane::guard::AcquireErrorKind::WouldDeadlock);
}

#[tokio::test]
async fn many_keys_leave_nothing() {
    let store = Arc::<Store>::default();
    let keyed = KeyedGuard::<usize>::builder("user").distributed(connected(&store).await).build();
    for key in 0..2_000 {
        drop(keyed.acquire(key).await.unwrap());
    }
    assert!(keyed.is_empty());
    eventually("all locks are released", || store.held() == 0).await;
}

#[tokio::test]
async fn closing_refuses_waiting_callers_and_disconnecting_waits_for_holders() {
    let store = Arc::<Store>::default();
    let locks = connected(&store).await;
    let guard = Arc::new(guard(locks));
    let permit = Arc::clone(&guard).acquire_owned().await.unwrap();
    let mut waiting = task::spawn(guard.acquire());
    assert!(waiting.poll().is_pending());
    guard.close();
    assert!(waiting.await.is_err());
    let mut disconnecting = task::spawn(locks.disconnect());
    assert!(disconnecting.poll().is_pending());
    drop(permit);
    timeout(PATIENCE, disconnecting).await.unwrap();
    assert_eq!(store.held(), 0);
}

#[tokio::test]
async fn closing_and_disconnecting_end_the_wait_for_other_processes() {
    let store = Arc::<Store>::default();
    let (here, there) = (connected(&store).await, connected(&store).await);
    let (elsewhere, closed, disconnected) = (guard(there), guard(here), guard(here));
    let _inside = elsewhere.acquire().await.unwrap();
    let mut waiting = task::spawn(closed.acquire());
    assert!(waiting.poll().is_pending());
    closed.close();
    let error = timeout(PATIENCE, waiting).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), onelane::guard::AcquireErrorKind::Closed);
    timeout(PATIENCE, closed.drained()).await.unwrap();

    let mut waiting = task::spawn(disconnected.acquire());
    assert!(waiting.poll().is_pending());
    let disconnecting = tokio::spawn(here.disconnect());
    let error = timeout(PATIENCE, waiting).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), onelane::guard::AcquireErrorKind::NotConnected);
    timeout(PATIENCE, disconnecting).await.unwrap().unwrap();
}

#[tokio::test]
async fn max_wait_limits_the_waits_for_all_keys_together() {
    let store = Arc::<Store>::default();
    let (here, there) = (connected(&store).await, connected(&store).await);
    let limited = KeyedGuard::<u32>::builder("user").max_wait(MS * 300).distributed(here).build();
    let elsewhere = KeyedGuard::<u32>::builder("user").distributed(there).build();
    let mut held = Vec::new();
    for key in 0..4 {
        held.push(elsewhere.acquire(key).await.unwrap());
    }
    let mut waiting = task::spawn(limited.acquire_all(0..4));
    assert!(waiting.poll().is_pending());
    sleep(MS * 200).await;
    drop(held.remove(0));
    let error = timeout(PATIENCE, waiting).await.unwrap().unwrap_err();
    let waited = error.waited().unwrap();
    assert!(waited >= MS * 300 && waited < MS * 480, "{waited:?}");
}
