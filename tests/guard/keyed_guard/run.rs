//! Running work with a key held, and nesting.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use onelane::guard::futures::AcquireKey;
use onelane::{AcquireError, KeyedGuard};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use crate::kind;
use support::leak;
use support::runtimes::multi_thread;

use super::{assert_idle, queued};
use crate::{Colliding, in_time};

#[test]
fn work_runs_with_its_key_held_and_its_output_is_returned() {
    let guard = KeyedGuard::new("run");
    let permit = guard.try_acquire(1).unwrap();
    let started = Cell::new(false);
    let mut run = task::spawn(guard.run(1, async {
        started.set(true);
        (guard.stats().held, guard.len())
    }));
    assert_pending!(run.poll());
    drop(permit);
    assert!(!started.get());
    assert_eq!(assert_ready_ok!(run.poll()), (1, 1));
    assert_idle(&guard);
}

#[test]
fn same_key_is_refused_inside_and_another_is_not() {
    let guard = KeyedGuard::new("nested");
    let mut run = task::spawn(guard.run(Colliding(1), async {
        let same = guard.acquire(Colliding(1)).await.map(drop).map_err(kind);
        let same_run = guard.run(Colliding(1), async {}).await.map_err(kind);
        let among_others = guard.acquire_all([0, 1, 2].map(Colliding)).await.map(drop).map_err(kind);
        let another = guard.acquire(Colliding(2)).await.map(drop).map_err(kind);
        // Key 1 is still recognized in a nested run, whose entry reuses the slot of a key that was released.
        let back = guard.run(Colliding(3), async { guard.acquire(Colliding(1)).await.map(drop).map_err(kind) }).await;
        let again = guard.acquire(Colliding(4)).await.map(drop).map_err(kind);
        ([same, same_run, among_others], [another, again], back)
    }));
    let refused = Err(AcquireErrorKind::WouldDeadlock);
    let expected = ([(); 3].map(|()| refused), [Ok(()), Ok(())], Ok(refused));
    assert_eq!(assert_ready_ok!(run.poll()), expected);
    assert_eq!(guard.stats().refused, 4);
    assert_idle(&guard);
    // This thread did not hold the key outside that poll.
    let _permit = guard.try_acquire(Colliding(1)).unwrap();
    assert_pending!(task::spawn(guard.acquire(Colliding(1))).poll());
}

#[test]
fn acquiring_another_held_key_inside_waits() {
    let guard = KeyedGuard::new("nested");
    let permit = guard.try_acquire(Colliding(2)).unwrap();
    let mut run = task::spawn(guard.run(Colliding(1), async { guard.run(Colliding(2), async {}).await }));
    assert_pending!(run.poll());
    drop(permit);
    assert_eq!(assert_ready_ok!(run.poll()), Ok(()));
    assert_idle(&guard);
}

#[test]
fn acquiring_the_same_key_of_another_guard_inside_waits() {
    // With this many keys, some occupy the same slot in the inner guard as key 1 does in the outer guard.
    const KEYS: u32 = 1_000;
    let (outer, inner) = (KeyedGuard::new("outer"), KeyedGuard::new("inner"));
    let permits: Vec<_> = (0..KEYS).map(|key| inner.try_acquire(key).unwrap()).collect();
    let mut run = task::spawn(outer.run(1, async {
        let mut waiting: Vec<_> = (0..KEYS).map(|key| queued(&inner, key)).collect();
        drop(permits);
        waiting.iter_mut().for_each(|caller| drop(assert_ready_ok!(caller.poll())));
    }));
    assert_ready_ok!(run.poll());
    assert_idle(&inner);
}

#[test]
fn free_permit_can_be_acquired_inside() {
    let guard = KeyedGuard::builder("two").permits(2).build();
    let work =
        async { guard.run(1, async { (guard.stats().held, guard.acquire(1).await.map(drop).map_err(kind)) }).await };
    let mut run = task::spawn(guard.run(1, work));
    assert_eq!(assert_ready_ok!(run.poll()), Ok((2, Err(AcquireErrorKind::WouldDeadlock))));
    assert_idle(&guard);
}

#[test]
fn waiter_enqueued_outside_and_awaited_inside_is_refused_and_cancelled() {
    let guard = KeyedGuard::new("nested");
    let permit = guard.try_acquire(1).unwrap();
    let enqueued = Mutex::new(None);
    let mut run = task::spawn(guard.run(1, async {
        let acquire: AcquireKey<'_, i32> = enqueued.lock().unwrap().take().expect("the waiter is enqueued by now");
        acquire.await.map(drop)
    }));
    assert_pending!(run.poll());
    let mut behind = guard.acquire(1);
    assert!(Pin::new(&mut behind).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    *enqueued.lock().unwrap() = Some(behind);
    drop(permit);
    assert_eq!(assert_ready_ok!(run.poll()).unwrap_err(), AcquireErrorKind::WouldDeadlock);
    assert_idle(&guard);
}

#[test]
fn acquiring_again_inside_a_closed_guard_fails_with_closed() {
    let guard = KeyedGuard::new("closed");
    let mut run = task::spawn(guard.run(1, async {
        guard.close();
        guard.acquire(1).await.map(drop)
    }));
    assert_eq!(assert_ready_ok!(run.poll()).unwrap_err(), AcquireErrorKind::Closed);
}

#[test]
fn blocking_inside_is_refused_for_the_same_key_on_a_thread_without_a_runtime() {
    let guard = KeyedGuard::new("nested");
    let work = async {
        (guard.acquire_blocking(1).map(drop).map_err(kind), guard.acquire_blocking(2).map(drop).map_err(kind))
    };
    let nested = futures::executor::block_on(guard.run(1, work));
    assert_eq!(nested, Ok((Err(AcquireErrorKind::WouldDeadlock), Ok(()))));
}

#[tokio::test(start_paused = true)]
async fn two_branches_of_one_task_run_one_after_the_other() {
    let guard = KeyedGuard::new("joined");
    let acquire = || async {
        let permit = guard.acquire(1).await?;
        assert_eq!(guard.stats().held, 1);
        yield_now().await;
        drop(permit);
        Ok::<_, AcquireError>(())
    };
    let both = in_time(async { tokio::join!(acquire(), acquire()) });
    assert_eq!(both.await, (Ok(()), Ok(())));
    let work = || async {
        assert_eq!(guard.stats().held, 1);
        yield_now().await;
    };
    let all = in_time(async { tokio::join!(acquire(), guard.run(1, work()), guard.run(1, work()), acquire()) });
    assert_eq!(all.await, (Ok(()), Ok(()), Ok(()), Ok(())));
    assert_eq!((guard.stats().granted, guard.stats().queued), (6, 4));
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn run_to_completion_refuses_its_key_inside_also_when_detached() {
    let guard = leak(KeyedGuard::new("nested"));
    let nested = guard.run_to_completion(1, async {
        // The run is recognized after it yielded, too.
        yield_now().await;
        let run = async |key| guard.run_to_completion(key, async {}).await.map_err(kind);
        (run(1).await, run(2).await)
    });
    assert_eq!(in_time(nested).await, Ok((Err(AcquireErrorKind::WouldDeadlock), Ok(()))));

    let (sender, outcome) = oneshot::channel();
    let mut run = task::spawn(guard.run_to_completion(1, async {
        yield_now().await;
        sender.send([1, 2].map(|key| guard.acquire_blocking(key).map(drop).map_err(kind))).unwrap();
        tokio::join!(guard.acquire(1), guard.acquire(2)).1.map(drop).map_err(kind).unwrap();
    }));
    assert_pending!(run.poll());
    drop(run);
    assert_eq!(in_time(outcome).await, Ok([(); 2].map(|()| Err(AcquireErrorKind::BlockingInAsync))));
    in_time(guard.acquire(1)).await.map(drop).map_err(kind).unwrap();
    assert_eq!(guard.stats().finished_detached, 1);
    assert_idle(guard);
}

#[tokio::test(start_paused = true)]
async fn detached_work_holds_its_key_until_it_ends() {
    let guard = Arc::new(KeyedGuard::new("running"));
    let (finish, finished) = oneshot::channel::<()>();
    let work = async move { finished.await.unwrap() };
    let mut run = task::spawn(Arc::clone(&guard).run_to_completion_owned("a".to_owned(), work));
    assert_pending!(run.poll());
    drop(run);
    assert_eq!((guard.stats().held, guard.stats().detached, guard.len()), (1, 1, 1));
    let mut next = queued(&guard, "a".to_owned());
    drop(guard.try_acquire("b".to_owned()).unwrap());
    yield_now().await;
    assert_pending!(next.poll());

    guard.close();
    assert_eq!(assert_ready_err!(next.poll()), AcquireErrorKind::Closed);
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    finish.send(()).unwrap();
    in_time(guard.drained()).await;
    assert_ready!(drained.poll());
    assert_eq!(guard.stats().finished_detached, 1);
    yield_now().await;
    assert_idle(&guard);
    assert_eq!(Arc::strong_count(&guard), 1);
}

#[tokio::test(start_paused = true)]
async fn caller_of_run_to_completion_cancelled_before_it_runs_starts_nothing() {
    let guard = leak(KeyedGuard::new("waiting"));
    for grant_first in [false, true] {
        let permit = guard.acquire(1).await.unwrap();
        let mut run = task::spawn(guard.run_to_completion(1, async { panic!("the work never starts") }));
        assert_pending!(run.poll());
        if grant_first {
            drop(permit);
            drop(run);
        } else {
            drop(run);
            drop(permit);
        }
        yield_now().await;
        assert_idle(guard);
    }
    let GuardStats { cancelled, panicked, finished_detached, .. } = guard.stats();
    assert_eq!((cancelled, panicked, finished_detached), (2, 0, 0));
}

#[test]
fn run_dropped_outside_a_runtime_is_cancelled_and_its_key_removed() {
    let guard = leak(KeyedGuard::new("no runtime"));
    let mut run = task::spawn(guard.run_to_completion(1, std::future::pending::<()>()));
    assert_pending!(run.poll());
    drop(run);
    assert_idle(guard);
    assert_eq!((guard.len(), guard.stats().finished_detached, guard.stats().cut_off), (0, 0, 1));
}

#[test]
fn runtime_shutdown_releases_the_key() {
    let guard = leak(KeyedGuard::new("runtime ends"));
    let runtime = multi_thread(2);
    runtime.block_on(async {
        let mut run = task::spawn(guard.run_to_completion(1, std::future::pending::<()>()));
        assert_pending!(run.poll());
    });
    assert_eq!((guard.stats().held, guard.stats().detached, guard.len()), (1, 1, 1));
    drop(runtime);
    assert_idle(guard);
    assert_eq!(guard.stats().cut_off, 1);
}
