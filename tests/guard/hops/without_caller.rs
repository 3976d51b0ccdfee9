//! The caller is inside the guard, and no longer waits for the work, so the work may wait for the caller.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use onelane::offload::from_thread::Portal;
use onelane::{CpuPool, run_blocking};
use support::leak;
use support::runtimes::multi_thread;
use support::waiting::{spin_until, until};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Call, Hop, KEY, MOMENT, Outcome, World};

type Sender = oneshot::Sender<Outcome>;

/// Calls `leave` inside the guard, with a sender for the outcome of its work. `leave` starts the work and stops waiting
/// for it. The work must wait until the caller has left the guard, and then acquire a permit.
fn assert_waits_for_the_caller<F>(leave: impl FnOnce(World, Sender) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = multi_thread(2);
    let world = World::new();
    world.latch.send_replace(false);
    let case = async move {
        let (sender, mut outcome) = oneshot::channel();
        let inside = world.guard.run(async {
            leave(world, sender).await;
            world.latch.send_replace(true);
            until("the work waits or ends", || world.guard.stats().waiting == 1 || !outcome.is_empty()).await;
            assert!(outcome.try_recv().is_err(), "the work waits until its caller has left the guard");
        });
        inside.await.unwrap();
        assert_eq!(outcome.await.unwrap(), Ok(()));
    };
    runtime.block_on(async { timeout(MOMENT, tokio::spawn(case)).await.expect("the case hangs").unwrap() });
    world.assert_free();
    runtime.shutdown_background();
}

fn blocking_call(world: World, sender: Sender) -> impl FnOnce() + Send + 'static {
    move || sender.send(Call::AcquireBlocking.make_blocking(world)).unwrap()
}

#[test]
fn detached_task_waits() {
    assert_waits_for_the_caller(|world, sender| async move {
        let work = blocking_call(world, sender);
        world.pool.task(move |_| work()).start().unwrap().detach();
    });
}

#[test]
fn abandoned_task_waits() {
    assert_waits_for_the_caller(|world, sender| async move {
        let mut task = Box::pin(run_blocking(blocking_call(world, sender)));
        assert!(futures::poll!(&mut task).is_pending());
        // A task that was not started yet would be cancelled.
        until("the task runs", || onelane::BlockingPool::global().stats().running > 0).await;
        drop(task);
    });
}

#[test]
fn task_of_an_abandoned_task_waits() {
    assert_waits_for_the_caller(|world, sender| async move {
        let (started, has_started) = oneshot::channel();
        let work = blocking_call(world, sender);
        let outer = move || {
            let mut task = Box::pin(onelane::run_cpu(work));
            let started = async {
                assert!(futures::poll!(&mut task).is_pending());
                started.send(()).unwrap();
                task.await.unwrap();
            };
            onelane::offload::from_thread::block_on(started).unwrap();
        };
        let mut task = Box::pin(run_blocking(outer));
        assert!(futures::poll!(&mut task).is_pending());
        has_started.await.unwrap();
        drop(task);
    });
}

#[test]
fn detached_task_of_a_portal_waits() {
    assert_waits_for_the_caller(|world, sender| async move {
        let portal = Portal::current().unwrap();
        let task = portal.spawn(async move { sender.send(Call::Acquire.make(world).await).unwrap() }).unwrap();
        // The portal lives as long as the task.
        tokio::spawn(async move {
            world.passed().await;
            until("the task ends", || world.guard.stats().granted == 2).await;
            drop(portal);
        });
        task.detach();
    });
}

#[test]
fn task_spawned_with_tokio_waits() {
    assert_waits_for_the_caller(|world, sender| async move {
        tokio::spawn(async move { sender.send(Call::Acquire.make(world).await).unwrap() });
    });
}

/// The leader is inside the guard and leaves the run. The other caller is not inside the guard.
#[test]
fn run_whose_leader_left_waits() {
    assert_waits_for_the_caller(|world, sender| async move {
        let lead = world.driven.run(KEY, move || async move {
            sender.send(Hop::RunBlocking.make(Call::AcquireBlocking, world).await).unwrap();
            Ok(Ok(()))
        });
        let mut lead = Box::pin(lead);
        assert!(futures::poll!(&mut lead).is_pending());
        tokio::spawn(world.driven.run(KEY, std::future::pending));
        until("the run has two callers", || world.driven.stats().shared == 1).await;
        drop(lead);
    });
}

/// A part runs on a thread of rayon, which does not know the task.
#[test]
fn part_of_a_task_waits() {
    assert_waits_for_the_caller(|world, sender| async move {
        let work = blocking_call(world, sender);
        let task = CpuPool::global().task(move |_| rayon::join(work, || ()).0);
        // The caller still waits for the task when it leaves the guard.
        leak(task.start().unwrap());
    });
}

/// While a task waits for its parts, rayon would run other work on a thread of its own.
#[test]
fn task_beside_one_that_yields_to_rayon_waits() {
    let runtime = multi_thread(2);
    let world = World::new();
    let case = async move {
        let pool = CpuPool::builder("two threads").threads(2).build();
        let [has_begun, has_run] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (begun, run) = (Arc::clone(&has_begun), Arc::clone(&has_run));
        let yields = pool.task(move |_| {
            begun.store(true, SeqCst);
            spin_until(|| {
                rayon::yield_now();
                run.load(SeqCst)
            });
        });
        let inside = tokio::spawn(world.guard.run(yields.into_future()));
        until("the task runs", || has_begun.load(SeqCst)).await;
        let beside = tokio::spawn(pool.task(move |_| world.guard.acquire_blocking().map(drop)).into_future());
        until("the task beside it waits", || world.guard.stats().waiting == 1).await;
        has_run.store(true, SeqCst);
        inside.await.unwrap().unwrap().unwrap();
        assert_eq!(beside.await.unwrap().unwrap(), Ok(()));
    };
    runtime.block_on(async { timeout(MOMENT, tokio::spawn(case)).await.expect("the case hangs").unwrap() });
    world.assert_free();
    runtime.shutdown_background();
}
