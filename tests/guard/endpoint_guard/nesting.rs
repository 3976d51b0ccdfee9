//! Acquiring a guard inside itself and inside another.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Waker};

use onelane::guard::AcquireErrorKind;
use onelane::{AcquireError, EndpointGuard};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready_ok, task};

use crate::kind;
use support::leak;
use support::waiting::yield_until;

use super::assert_idle;
use crate::in_time;

#[test]
fn acquiring_again_inside_run_is_refused_at_once() {
    let guard = EndpointGuard::new("nested");
    let mut run = task::spawn(guard.run(async {
        let acquired = guard.acquire().await.map(drop).map_err(kind);
        let run = guard.run(async {}).await.map_err(kind);
        (acquired, run)
    }));
    let refused = Err(AcquireErrorKind::WouldDeadlock);
    assert_eq!(assert_ready_ok!(run.poll()), (refused, refused));
    assert_eq!(guard.stats().refused, 2);
    assert_idle(&guard);
}

#[test]
fn nested_try_acquire_is_busy_and_is_admitted_where_a_permit_is_free() {
    let guard = EndpointGuard::new("nested");
    let nested = async { guard.try_acquire().map(drop).map_err(kind) };
    assert_eq!(assert_ready_ok!(task::spawn(guard.run(nested)).poll()), Err(AcquireErrorKind::Busy));
    let guard = EndpointGuard::builder("nested").permits(2).build();
    let nested = async {
        let tried = guard.try_acquire().map(drop).is_ok();
        (tried, guard.acquire().await.map(drop).is_ok())
    };
    assert_eq!(assert_ready_ok!(task::spawn(guard.run(nested)).poll()), (true, true));
}

#[test]
fn waiter_enqueued_outside_and_awaited_inside_is_refused_and_cancelled() {
    let guard = EndpointGuard::new("nested");
    let permit = guard.try_acquire().unwrap();
    let queued = Mutex::new(None);
    let mut run = task::spawn(guard.run(async {
        let acquire: onelane::guard::futures::Acquire<'_> =
            queued.lock().unwrap().take().expect("the waiter is enqueued by now");
        acquire.await.map(drop)
    }));
    assert_pending!(run.poll());
    let mut behind = guard.acquire();
    assert!(Pin::new(&mut behind).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    *queued.lock().unwrap() = Some(behind);
    drop(permit);
    assert_eq!(assert_ready_ok!(run.poll()).unwrap_err(), AcquireErrorKind::WouldDeadlock);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn acquiring_again_inside_run_to_completion_is_refused() {
    let guard = leak(EndpointGuard::new("nested"));
    let nested = guard.run_to_completion(async {
        // The run is recognized after it yielded, too.
        yield_now().await;
        guard.run_to_completion(async {}).await
    });
    assert_eq!(in_time(nested).await.unwrap().unwrap_err(), AcquireErrorKind::WouldDeadlock);
    assert_idle(guard);
}

#[tokio::test(start_paused = true)]
async fn acquiring_again_in_a_detached_run_is_refused() {
    let guard = leak(EndpointGuard::new("nested"));
    let (sender, outcome) = oneshot::channel();
    let mut run = task::spawn(guard.run_to_completion(async {
        yield_now().await;
        sender.send(guard.acquire().await.map(drop)).unwrap();
    }));
    assert_pending!(run.poll());
    drop(run);
    assert_eq!(in_time(outcome).await.unwrap().unwrap_err(), AcquireErrorKind::WouldDeadlock);
}

#[test]
fn blocking_inside_run_is_refused_on_a_thread_without_a_runtime() {
    let guard = EndpointGuard::new("nested");
    let nested = futures::executor::block_on(guard.run(async { guard.acquire_blocking().map(drop) }));
    assert_eq!(nested.unwrap().unwrap_err(), AcquireErrorKind::WouldDeadlock);
}

#[tokio::test(start_paused = true)]
async fn two_branches_of_one_task_run_one_after_the_other() {
    let guard = EndpointGuard::new("joined");
    let work = || async {
        assert_eq!(guard.stats().held, 1);
        yield_now().await;
    };
    let both = in_time(async { tokio::join!(guard.run(work()), guard.run(work())) });
    assert_eq!(both.await, (Ok(()), Ok(())));
    let acquire = || async {
        let permit = guard.acquire().await?;
        yield_now().await;
        drop(permit);
        Ok::<_, AcquireError>(())
    };
    let all = in_time(async { tokio::join!(acquire(), guard.run(work()), acquire()) });
    assert_eq!(all.await, (Ok(()), Ok(()), Ok(())));
    assert_eq!(guard.stats().granted, 5);
    assert_idle(&guard);
}

#[test]
fn free_permit_can_be_acquired_inside() {
    let guard = EndpointGuard::builder("two").permits(2).build();
    let mut run =
        task::spawn(guard.run(async {
            guard.run(async { (guard.stats().held, guard.acquire().await.map(drop).map_err(kind)) }).await
        }));
    assert_eq!(assert_ready_ok!(run.poll()), Ok((2, Err(AcquireErrorKind::WouldDeadlock))));
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn task_spawned_inside_waits_like_any_other_caller() {
    let guard = leak(EndpointGuard::new("spawned"));
    let mut spawned = None;
    let run = guard.run(async {
        spawned = Some(tokio::spawn(async { guard.acquire().await.map(drop) }));
        yield_until(|| guard.stats().waiting == 1).await;
    });
    run.await.unwrap();
    assert_eq!(in_time(spawned.unwrap()).await.unwrap(), Ok(()));
}

#[test]
fn acquiring_another_full_guard_inside_waits() {
    let (outer, inner) = (EndpointGuard::new("outer"), EndpointGuard::new("inner"));
    let permit = inner.try_acquire().unwrap();
    let mut run = task::spawn(outer.run(async { inner.run(async {}).await }));
    assert_pending!(run.poll());
    drop(permit);
    assert_eq!(assert_ready_ok!(run.poll()), Ok(()));
}

#[test]
fn another_guard_can_be_acquired_inside_but_the_outer_one_not_again() {
    let outer = EndpointGuard::new("outer");
    let inner = EndpointGuard::new("inner");
    let mut run = task::spawn(outer.run(async {
        let nested = inner.run(async { outer.acquire().await.map(drop).map_err(kind) }).await;
        (nested, outer.acquire().await.map(drop).map_err(kind), inner.acquire().await.map(drop).map_err(kind))
    }));
    let refused = Err(AcquireErrorKind::WouldDeadlock);
    assert_eq!(assert_ready_ok!(run.poll()), (Ok(refused), refused, Ok(())));
    // This thread held neither guard outside that poll.
    let _permit = outer.try_acquire().unwrap();
    assert_pending!(task::spawn(outer.acquire()).poll());
}
