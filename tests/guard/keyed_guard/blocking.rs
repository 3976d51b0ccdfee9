//! Callers that block a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use onelane::KeyedGuard;
use onelane::guard::AcquireErrorKind;
use tokio::task::{block_in_place, spawn_blocking};
use tokio_test::{assert_pending, assert_ready_ok};

use crate::kind;
use support::leak;
use support::runtimes::{current_thread, multi_thread};
use support::waiting::spin_until;

use super::{assert_idle, queued};

#[test]
fn threads_and_tasks_share_one_queue() {
    let guard = KeyedGuard::new("mixed");
    let permit = guard.try_acquire(1).unwrap();
    let mut first = queued(&guard, 1);
    let (acquired, release) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let permit = guard.acquire_blocking(1).unwrap();
            acquired.store(true, Ordering::SeqCst);
            spin_until(|| release.load(Ordering::SeqCst));
            drop(permit);
        });
        spin_until(|| guard.stats().waiting == 2);
        let mut third = queued(&guard, 1);
        // A thread that acquires another key waits for none of these callers.
        scope.spawn(|| drop(guard.acquire_blocking(2).unwrap())).join().unwrap();

        drop(permit);
        let permit = assert_ready_ok!(first.poll());
        assert_pending!(third.poll());
        assert!(!acquired.load(Ordering::SeqCst));
        drop(permit);
        spin_until(|| acquired.load(Ordering::SeqCst));
        assert_pending!(third.poll());
        release.store(true, Ordering::SeqCst);
        spin_until(|| third.is_woken());
        drop(assert_ready_ok!(third.poll()));
    });
    assert_idle(&guard);
}

#[test]
fn acquire_blocking_waits_where_blocking_is_allowed() {
    let guard = leak(KeyedGuard::new("allowed"));
    let runtime = multi_thread(2);
    let acquire = move || guard.acquire_blocking(1).map(drop);
    let outcomes = runtime.block_on(async {
        let on_pool = spawn_blocking(acquire).await.unwrap();
        let on_worker = tokio::spawn(async move { block_in_place(acquire) }).await.unwrap();
        [on_pool, on_worker]
    });
    assert_eq!(outcomes, [Ok(()), Ok(())]);
}

#[test]
fn acquire_blocking_on_a_thread_that_runs_tasks_is_refused_even_if_the_key_is_free() {
    let guard = leak(KeyedGuard::new("the caller is refused"));
    let _permit = guard.try_acquire(1).unwrap();
    for runtime in [multi_thread(2), current_thread()] {
        for key in [1, 2] {
            let acquire = || async move { guard.acquire_blocking(key).map(drop).map_err(kind) };
            assert_eq!(runtime.block_on(acquire()), Err(AcquireErrorKind::BlockingInAsync));
            let spawned = runtime.block_on(async { tokio::spawn(acquire()).await.unwrap() });
            assert_eq!(spawned, Err(AcquireErrorKind::BlockingInAsync));
        }
    }
    assert_eq!(guard.stats().refused, 8);
    assert_eq!((guard.stats().held, guard.stats().waiting, guard.len()), (1, 0, 1));
}

#[test]
fn owned_permit_of_a_blocking_caller_outlives_its_reference_to_the_guard() {
    let guard = Arc::new(KeyedGuard::new("owned"));
    let held = guard.try_acquire(7).unwrap();
    let waiting = thread::spawn({
        let guard = Arc::clone(&guard);
        move || guard.acquire_owned_blocking(7).unwrap()
    });
    spin_until(|| guard.stats().waiting == 1);
    drop(held);
    let permit = waiting.join().unwrap();
    assert_eq!((permit.key(), guard.stats().held), (7, 1));
    drop(permit);
    assert_idle(&guard);
}
