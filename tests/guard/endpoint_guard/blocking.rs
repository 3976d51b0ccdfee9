//! Callers that block a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use onelane::EndpointGuard;
use onelane::guard::{AcquireErrorKind, SharedGuard};
use tokio::task::{LocalSet, block_in_place, coop, spawn_blocking};
use tokio_test::{assert_pending, assert_ready_ok, task};

use crate::kind;
use support::leak;
use support::runtimes::{current_thread, multi_thread};
use support::waiting::spin_until;

use super::assert_idle;

#[test]
fn threads_and_tasks_share_one_queue() {
    let guard = EndpointGuard::new("mixed");
    let permit = guard.try_acquire().unwrap();
    let mut first = task::spawn(guard.acquire());
    assert_pending!(first.poll());
    let (acquired, release) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let permit = guard.acquire_blocking().unwrap();
            acquired.store(1, Ordering::SeqCst);
            spin_until(|| release.load(Ordering::SeqCst) == 1);
            drop(permit);
        });
        spin_until(|| guard.stats().waiting == 2);
        let mut third = task::spawn(guard.acquire());
        assert_pending!(third.poll());

        drop(permit);
        let permit = assert_ready_ok!(first.poll());
        assert_pending!(third.poll());
        assert_eq!(acquired.load(Ordering::SeqCst), 0);
        drop(permit);
        spin_until(|| acquired.load(Ordering::SeqCst) == 1);
        assert_pending!(third.poll());
        release.store(1, Ordering::SeqCst);
        spin_until(|| third.is_woken());
        drop(assert_ready_ok!(third.poll()));
    });
    assert_idle(&guard);
}

#[test]
fn acquire_blocking_waits_where_blocking_is_allowed() {
    let guard = leak(EndpointGuard::new("allowed"));
    let runtime = multi_thread(2);
    let acquire = move || guard.acquire_blocking().map(drop);
    let outcomes = runtime.block_on(async {
        let on_pool = spawn_blocking(acquire).await.unwrap();
        let on_worker = tokio::spawn(async move { block_in_place(acquire) }).await.unwrap();
        let in_block_on = block_in_place(acquire);
        [on_pool, on_worker, in_block_on]
    });
    assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
    let _entered = runtime.enter();
    assert_eq!(acquire(), Ok(()), "a thread that has only entered a runtime runs none of its tasks");
}

#[test]
fn acquire_blocking_on_the_blocking_pool_waits_for_a_task() {
    let guard = leak(EndpointGuard::new("pool"));
    multi_thread(2).block_on(async {
        let permit = guard.acquire().await.unwrap();
        let blocked = spawn_blocking(|| guard.acquire_blocking().map(drop));
        // The other thread needs real time to reach the queue.
        let is_queued = spawn_blocking(|| spin_until(|| guard.stats().waiting == 1));
        is_queued.await.unwrap();
        drop(permit);
        assert_eq!(blocked.await.unwrap(), Ok(()));
    });
    assert_idle(guard);
}

#[test]
fn acquire_blocking_on_a_thread_that_runs_tasks_is_refused_even_if_the_guard_is_free() {
    let guard = leak(EndpointGuard::new("refused"));
    let current = current_thread();
    let multi = multi_thread(2);
    let mut held = None;
    for _round in ["free", "held"] {
        for runtime in [&current, &multi] {
            let acquire = || async { guard.acquire_blocking().map(drop).map_err(kind) };
            let refused = Err(AcquireErrorKind::BlockingInAsync);
            assert_eq!(runtime.block_on(acquire()), refused);
            assert_eq!(runtime.block_on(async { tokio::spawn(acquire()).await.unwrap() }), refused);
            let local = async { LocalSet::new().run_until(async { acquire().await }).await };
            assert_eq!(runtime.block_on(local), refused);
        }
        held.get_or_insert_with(|| guard.try_acquire().unwrap());
    }
    assert_eq!(guard.stats().refused, 12);
    assert_eq!((guard.stats().held, guard.stats().waiting), (1, 0));
}

fn spend(steps: usize) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let spent = (0..steps).take_while(|_| match coop::poll_proceed(&mut cx) {
        Poll::Ready(step) => {
            step.made_progress();
            true
        }
        Poll::Pending => false,
    });
    spent.count()
}

#[tokio::test(start_paused = true)]
async fn refused_acquire_blocking_spends_no_coop_budget() {
    let whole = tokio::spawn(async { spend(1_000) }).await.unwrap();
    assert!((2..1_000).contains(&whole), "{whole}");
    for spent in [0, 1, whole / 2, whole - 1, whole] {
        let left = tokio::spawn(async move {
            let guard = EndpointGuard::new("budget");
            assert_eq!(spend(spent), spent);
            assert_eq!(guard.acquire_blocking().unwrap_err(), AcquireErrorKind::BlockingInAsync);
            assert_eq!(coop::has_budget_remaining(), spent < whole);
            spend(1_000)
        });
        assert_eq!(left.await.unwrap(), whole - spent);
    }
}

#[test]
fn owned_permit_of_a_blocking_caller_outlives_its_reference_to_the_guard() {
    let guard = Arc::new(EndpointGuard::new("owned"));
    let held = guard.try_acquire().unwrap();
    let waiting = thread::spawn({
        let guard = Arc::clone(&guard);
        move || guard.acquire_owned_blocking().unwrap()
    });
    spin_until(|| guard.stats().waiting == 1);
    drop(held);
    let permit = waiting.join().unwrap();
    assert_eq!(guard.stats().held, 1);
    drop(permit);
    assert_idle(&guard);
    let refused = current_thread().block_on(async { guard.acquire_owned_blocking().map(drop) });
    assert_eq!(kind(refused.unwrap_err()), AcquireErrorKind::BlockingInAsync);
    static STATIC: EndpointGuard = EndpointGuard::new("static");
    drop(SharedGuard::from(&STATIC).acquire_owned_blocking().unwrap());
    assert_eq!(STATIC.stats().granted, 1);
}
