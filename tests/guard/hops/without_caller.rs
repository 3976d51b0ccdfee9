//! The caller is inside the guard, and no longer waits for the work, so the work may wait for the caller.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use onelane::guard::AcquireErrorKind;
use onelane::offload::TaskContext;
use onelane::offload::from_thread::Portal;
use onelane::{CpuPool, run_blocking};
use support::runtimes::multi_thread;
use support::waiting::{spin_until, until};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Call, Hop, KEY, MOMENT, Outcome, World};
use crate::kind;

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

/// Runs `on_top` on the rayon thread of a task whose caller is inside the guard. A rayon thread runs other tasks while
/// its task waits for its parts. Returns the result of `on_top` once the guard has been asked for a permit.
async fn on_top_of_a_task<T: Send + 'static>(world: World, on_top: impl FnOnce() -> T + Send + 'static) -> T {
    let pool = CpuPool::builder("two threads").threads(2).build();
    let (has_begun, has_run) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let below = {
        let (pool, has_begun, has_run) = (pool.clone(), Arc::clone(&has_begun), Arc::clone(&has_run));
        let task = move || {
            let begun = Arc::clone(&has_begun);
            rayon::spawn(move || {
                begun.store(true, SeqCst);
                futures::executor::block_on(world.passed());
            });
            // The other thread of the pool is blocked from then on.
            spin_until(|| has_begun.load(SeqCst));
            spin_until(|| {
                rayon::yield_now();
                has_run.load(SeqCst)
            });
        };
        tokio::spawn(async move { world.guard.run(pool.run(task)).await.unwrap().unwrap() })
    };
    until("the task below runs", || has_begun.load(SeqCst)).await;
    let outcome = pool.run(on_top).await.unwrap();
    until("the guard is asked for", || world.guard.stats().waiting + world.guard.stats().refused as usize > 0).await;
    has_run.store(true, SeqCst);
    world.latch.send_replace(true);
    below.await.unwrap();
    outcome
}

#[test]
fn task_started_on_top_of_another_does_not_take_its_scopes() {
    let runtime = multi_thread(2);
    let world = World::new();
    world.latch.send_replace(false);
    let case = async move {
        // The caller of the task on top waits for that task, and the task below does not.
        let call = move |_: &TaskContext| world.guard.acquire_blocking().map(drop);
        let started = on_top_of_a_task(world, move || world.pool.task(call).start().unwrap()).await;
        assert_eq!(started.await.unwrap(), Ok(()));
    };
    runtime.block_on(async { timeout(MOMENT, tokio::spawn(case)).await.expect("the case hangs").unwrap() });
    world.assert_free();
    runtime.shutdown_background();
}

#[test]
fn blocking_call_on_top_of_a_task_inside_is_refused() {
    let runtime = multi_thread(2);
    let world = World::new();
    world.latch.send_replace(false);
    let case = on_top_of_a_task(world, move || world.guard.acquire_blocking().map(drop).map_err(kind));
    let outcome =
        runtime.block_on(async { timeout(MOMENT, tokio::spawn(case)).await.expect("the case hangs").unwrap() });
    assert_eq!(outcome, Err(AcquireErrorKind::WouldDeadlock));
    world.assert_free();
    runtime.shutdown_background();
}
