//! Several runtimes, and runtimes that shut down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use onelane::offload::OffloadErrorKind;
use onelane::{BlockingPool, run_blocking};
use tokio::runtime::Handle;

use crate::runtimes::runtimes;
use support::waiting::{Gate, MS, PATIENCE, soon, until};

#[test]
fn pool_used_from_two_runtimes_runs_tasks_on_the_threads_of_their_own() {
    let pool = BlockingPool::new("two");
    let [left, right] = runtimes();
    let ids = [&left, &right].map(|runtime| runtime.block_on(pool.run(|| Handle::current().id())).unwrap());
    assert_eq!(ids, [left.handle().id(), right.handle().id()]);
    drop(left);
    assert_eq!(right.block_on(pool.run(|| 7)), Ok(7));
    // A result may arrive a moment before the token is released.
    right.block_on(until("both tokens are released", || pool.limiter().stats().borrowed == 0));
}

#[test]
fn idle_threads_do_not_delay_the_shutdown() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let pool = BlockingPool::new("idle");
            // Real time: while these tasks sleep, others take further threads.
            let handles: Vec<_> = (0..20).map(|_| pool.task(|_| thread::sleep(MS)).start().unwrap()).collect();
            for handle in handles {
                handle.await.unwrap();
            }
        });
        let start = Instant::now();
        drop(runtime);
        // An idle thread of a CPU pool stays for 10 s. A busy machine takes up to a second to end 20 threads.
        assert!(start.elapsed() < MS * 5_000, "{:?}", start.elapsed());
    }
}

#[test]
fn shutdown_waits_for_running_tasks_and_not_for_queued_ones() {
    let shutdown_after_the_last_task = |which: usize| {
        let [current_thread, multi_thread] = runtimes();
        let runtime = if which == 0 { current_thread } else { multi_thread };
        let pool = BlockingPool::builder("four").max_running(4).build();
        let ran = Arc::new(AtomicUsize::new(0));
        let (send_started, started) = std::sync::mpsc::channel();
        let (running, queued) = runtime.block_on(async {
            // Three threads that are idle then, since each task waits for the others.
            let all = Arc::new(Barrier::new(3));
            let idle = [(); 3].map(|()| {
                let all = all.clone();
                pool.task(move |_| all.wait()).start().unwrap()
            });
            for handle in idle {
                soon("the tasks meet", handle).await.unwrap();
            }
            let ran_in_task = ran.clone();
            let running = pool.task(move |_| {
                send_started.send(()).unwrap();
                // Real time: the shutdown has to wait for this task.
                thread::sleep(MS * 30);
                ran_in_task.fetch_add(1, Ordering::SeqCst);
                Instant::now()
            });
            let running = running.shield().start().unwrap();
            pool.limiter().set_total(1);
            let queued: Vec<_> = (0..100)
                .map(|_| {
                    let ran = ran.clone();
                    pool.task(move |_| ran.fetch_add(1_000, Ordering::SeqCst)).shield().start().unwrap()
                })
                .collect();
            (running, queued)
        });
        started.recv_timeout(PATIENCE).unwrap();
        drop(runtime);
        let over = Instant::now();
        assert_eq!(
            ran.load(Ordering::SeqCst),
            1,
            "the shutdown has waited for the running task, and no other one has started"
        );
        for handle in queued {
            assert_eq!(futures::executor::block_on(handle).unwrap_err(), OffloadErrorKind::RuntimeShutdown);
        }
        assert_eq!(pool.limiter().stats().borrowed, 0);
        over - futures::executor::block_on(running).unwrap()
    };
    for which in [0, 1] {
        let mut took: Vec<_> = (0..9).map(|_| shutdown_after_the_last_task(which)).collect();
        took.sort();
        assert!(took[4] < MS * 10 && took[7] < MS * 50, "{took:?}");
    }
}

#[test]
fn new_task_of_a_dropped_runtime_fails_with_runtime_shutdown() {
    for runtime in runtimes() {
        let pool = BlockingPool::new("gone");
        let handle = runtime.handle().clone();
        runtime.block_on(pool.run(|| ())).unwrap();
        drop(runtime);
        let _entered = handle.enter();
        assert_eq!(futures::executor::block_on(pool.run(|| ())).unwrap_err(), OffloadErrorKind::RuntimeShutdown);
        let result = futures::executor::block_on(BlockingPool::new("new").run(|| ()));
        assert_eq!(result.unwrap_err(), OffloadErrorKind::RuntimeShutdown);
    }
}

#[test]
fn pool_busy_in_one_runtime_does_not_keep_another_from_shutting_down() {
    let pool = BlockingPool::builder("shared").max_running(4).build();
    let [left, right] = runtimes();
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    // Real time: each task keeps its thread for a moment, as blocking work does.
    let busy = {
        let (pool, is_over) = (pool.clone(), is_over.clone());
        thread::spawn(move || {
            right.block_on(async {
                let callers = (0..16).map(|_| async {
                    while !is_over.load(Ordering::SeqCst) {
                        pool.run(|| thread::sleep(MS / 10)).await.unwrap();
                    }
                });
                futures::future::join_all(callers).await;
            });
        })
    };
    for _ in 0..50 {
        left.block_on(pool.run(|| thread::sleep(MS / 10))).unwrap();
    }
    let start = Instant::now();
    drop(left);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    is_over.store(true, Ordering::SeqCst);
    busy.join().unwrap();
}

#[test]
fn task_of_a_runtime_that_was_shut_down_in_the_background_still_counts() {
    let (pool, gate) = (BlockingPool::new("left behind"), Gate::default());
    for runtime in runtimes() {
        let before = gate.inside();
        runtime.block_on(async {
            let block = gate.block();
            drop(pool.task(move |_| block()).shield().start().unwrap());
            until("the task runs", || gate.inside() == before + 1).await;
        });
        runtime.shutdown_background();
    }
    let [here, _] = runtimes();
    here.block_on(async {
        assert_eq!(pool.run(|| 7).await, Ok(7));
        // The task of this runtime counts as running until its thread has checked the queue again.
        until("two tasks still run", || pool.stats().running == 2).await;
        pool.close();
        let mut drained = tokio_test::task::spawn(Box::pin(pool.drained()));
        tokio_test::assert_pending!(drained.poll());
        gate.open();
        soon("they have ended", drained).await.unwrap();
        until("their tokens are released", || pool.limiter().stats().borrowed == 0).await;
    });
}

#[test]
fn tasks_run_on_named_threads_of_the_runtime() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().thread_name("service-blocking").enable_all().build().unwrap();
    let name = runtime.block_on(run_blocking(|| thread::current().name().map(str::to_owned)));
    assert_eq!(name, Ok(Some("service-blocking".to_owned())));
}

#[test]
fn shutdown_waits_for_running_tasks_that_were_dropped() {
    let gate = Gate::default();
    let [runtime, _] = runtimes();
    runtime.block_on(async {
        let mut dropped = tokio_test::task::spawn(Box::pin(run_blocking(gate.block())));
        tokio_test::assert_pending!(dropped.poll());
        until("the task runs", || gate.inside() == 1).await;
    });
    gate.open();
    drop(runtime);
    assert_eq!(gate.inside(), 0, "the shutdown has waited for the task");
}
