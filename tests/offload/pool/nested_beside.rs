//! Nested tasks in a runtime or a `LocalSet` that their outer task drives on its thread, while no token is free.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use futures::future::join_all;
use onelane::offload::{OffloadErrorKind, TaskHandle};
use onelane::{BlockingPool, CpuPool};
use tokio::runtime::{Builder, Handle};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use support::runtimes::current_thread;
use support::waiting::{Gate, MS, PATIENCE, soon, until};

fn one() -> BlockingPool {
    BlockingPool::builder("one").max_running(1).build()
}

/// Runs the outer task of a test. The threads of a test that fails are left behind.
fn run<T: Send + 'static>(pool: &BlockingPool, outer: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = current_thread();
    let result = runtime.block_on(async { timeout(PATIENCE, pool.run(outer)).await });
    runtime.shutdown_background();
    result.expect("the outer task ends").unwrap()
}

/// Waits for a timer and a task of the current runtime.
fn blocks_on_its_runtime() -> u32 {
    Handle::current().block_on(async {
        sleep(MS).await;
        tokio::spawn(async { 7 }).await.unwrap()
    })
}

#[test]
fn nested_task_may_wait_for_the_runtime_that_its_outer_task_drives() {
    let pool = one();
    let inner = pool.clone();
    assert_eq!(run(&pool, move || current_thread().block_on(inner.run(blocks_on_its_runtime))), Ok(7));

    let cpu = CpuPool::builder("one").threads(1).build();
    let inner = cpu.clone();
    let outer = cpu.run(move || current_thread().block_on(inner.run(blocks_on_its_runtime)));
    assert_eq!(current_thread().block_on(soon("the task ends", outer)).unwrap(), Ok(7));
}

#[test]
fn nested_task_may_wait_for_tasks_of_the_local_set_around_it() {
    let pool = one();
    let inner = pool.clone();
    let outer = move || {
        Handle::current().block_on(LocalSet::new().run_until(async move {
            let (sender, receiver) = mpsc::channel();
            let nested = inner.task(move |_| receiver.recv()).start().unwrap();
            tokio::task::spawn_local(async move { sender.send(7).unwrap() });
            nested.await
        }))
    };
    assert_eq!(run(&pool, outer), Ok(Ok(7)));
}

#[test]
fn nested_tasks_of_one_outer_task_run_one_after_the_other() {
    let pool = one();
    let inner = pool.clone();
    let most = Arc::new(AtomicUsize::new(0));
    let outer = move || {
        let running = Arc::new(AtomicUsize::new(0));
        let work = || {
            let (most, running) = (Arc::clone(&most), Arc::clone(&running));
            move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(MS * 5);
                running.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let results = current_thread().block_on(join_all((0..4).map(|_| inner.run(work()))));
        (results, most.load(Ordering::SeqCst))
    };
    assert_eq!(run(&pool, outer), (vec![Ok(()); 4], 1));
}

#[test]
fn outer_task_keeps_its_token_until_its_nested_tasks_have_ended() {
    let pool = one();
    let (gate, inner) = (Gate::default(), pool.clone());
    let waits = gate.wait();
    let outer = move || {
        current_thread().block_on(async {
            let running = inner.task(move |_| waits.block()).start().unwrap();
            let queued = inner.task(|_| ()).start().unwrap();
            running.detach();
            queued.detach();
        });
    };
    let runtime = current_thread();
    runtime.block_on(async {
        let mut outer = pool.task(move |_| outer()).start().unwrap();
        until("the nested task runs", || gate.inside() == 1).await;
        assert!(timeout(MS * 20, &mut outer).await.is_err(), "the outer task waits");
        assert_eq!((pool.limiter().stats().borrowed, pool.stats().started), (1, 1));
        gate.open();
        assert_eq!(soon("the outer task ends", outer).await, Ok(()));
        until("the token is released", || pool.limiter().stats().borrowed == 0).await;
        assert_eq!(pool.stats().started, 3);
    });
}

#[test]
fn nested_task_obeys_its_time_limits_and_never_runs_if_it_is_dropped_before_it_starts() {
    let pool = one();
    let (gate, inner) = (Gate::default(), pool.clone());
    let outer = move || {
        current_thread().block_on(async {
            let waits = gate.wait();
            let running = inner.task(move |_| waits.block()).timeout(MS * 20).start().unwrap();
            let late = inner.task(|_| unreachable!("it is too late")).max_wait(MS * 20).start().unwrap();
            let dropped = inner.task(|_| unreachable!("its handle is dropped")).start().unwrap();
            drop::<TaskHandle<()>>(dropped);
            let ends: (Result<(), _>, Result<(), _>) = (running.await, late.await);
            gate.open();
            let last = inner.run(|| 7).await;
            (ends.0.map_err(|error| error.kind()), ends.1.map_err(|error| error.kind()), last)
        })
    };
    let (timeout, queue_timeout) = (Err(OffloadErrorKind::Timeout), Err(OffloadErrorKind::QueueTimeout));
    assert_eq!(run(&pool, outer), (timeout, queue_timeout, Ok(7)));
}

#[test]
fn nested_tasks_nest() {
    fn deep(pool: BlockingPool, depth: u32) -> u32 {
        if depth == 0 {
            return 0;
        }
        let below = pool.clone();
        let nested = async move {
            sleep(MS).await;
            pool.run(move || deep(below, depth - 1)).await.unwrap()
        };
        // In the runtime of the caller, and in one of its own.
        1 + if depth.is_multiple_of(2) { Handle::current().block_on(nested) } else { current_thread().block_on(nested) }
    }

    let pool = one();
    let inner = pool.clone();
    assert_eq!(run(&pool, move || deep(inner, 9)), 9);
}

#[test]
fn paused_clock_stands_still_while_a_nested_task_runs() {
    let pool = one();
    let inner = pool.clone();
    let outer = move || {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let nested = async move { timeout(Duration::from_secs(100), inner.run(|| thread::sleep(MS * 50))).await };
        runtime.block_on(nested).is_ok()
    };
    assert!(run(&pool, outer), "100 s of virtual time have passed");
}

#[test]
fn closed_pool_is_drained_once_its_nested_tasks_have_ended() {
    let pool = one();
    let (inner, has_run) = (pool.clone(), Arc::new(AtomicBool::new(false)));
    let has_ended = Arc::clone(&has_run);
    let outer = move || {
        current_thread().block_on(async {
            let nested = inner.task(move |_| {
                thread::sleep(MS * 20);
                has_run.store(true, Ordering::SeqCst);
            });
            nested.start().unwrap().detach();
            inner.close();
            inner.run(|| ()).await.map_err(|error| error.kind())
        })
    };
    let runtime = current_thread();
    runtime.block_on(async {
        let outer = pool.task(move |_| outer()).start().unwrap();
        until("the pool is closed", || pool.is_closed()).await;
        soon("the pool is drained", pool.drained()).await.unwrap();
        assert!(has_ended.load(Ordering::SeqCst), "the nested task has ended");
        assert_eq!(outer.await, Ok(Err(OffloadErrorKind::Closed)));
    });
}
