//! Several runtimes, and runtimes that shut down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use onelane::{BlockingPool, OffloadError, run_blocking};
use tokio::runtime::Handle;

use crate::pool::gate::runtimes;
use support::waiting::{Gate, MS, PATIENCE, soon, until};

#[test]
fn pool_is_used_from_two_runtimes_and_each_has_its_own_threads() {
    let pool = BlockingPool::new("two");
    let [left, right] = runtimes();
    let ids = [&left, &right].map(|runtime| runtime.block_on(pool.run(|| Handle::current().id())).unwrap());
    assert_eq!(ids, [left.handle().id(), right.handle().id()]);
    drop(left);
    assert_eq!(right.block_on(pool.run(|| 7)), Ok(7));
    // A result may come a moment before the token is back.
    right.block_on(until("both tokens are back", || pool.limiter().statistics().borrowed == 0));
}

#[test]
fn idle_threads_do_not_delay_the_shutdown() {
    let shutdown_takes = |which: usize| {
        let [current_thread, multi_thread] = runtimes();
        let runtime = if which == 0 { current_thread } else { multi_thread };
        runtime.block_on(async {
            let pool = BlockingPool::new("idle");
            // Real: while they sleep, others take further threads.
            let handles: Vec<_> = (0..20).map(|_| pool.task(|_| thread::sleep(MS)).start().unwrap()).collect();
            for handle in handles {
                handle.await.unwrap();
            }
        });
        let start = Instant::now();
        drop(runtime);
        start.elapsed()
    };
    for which in [0, 1] {
        // Of some: a thread that stayed would take its time, and a busy machine does not each time.
        let mut took: Vec<_> = (0..20).map(|_| shutdown_takes(which)).collect();
        took.sort();
        assert!(took[10] < MS * 10 && took[17] < MS * 50, "{took:?}");
    }
}

#[test]
fn shutdown_waits_for_what_runs_and_for_nothing_that_waits() {
    let beyond_what_runs = |which: usize| {
        let [current_thread, multi_thread] = runtimes();
        let runtime = if which == 0 { current_thread } else { multi_thread };
        let pool = BlockingPool::builder("four").max_running(4).build();
        let ran = Arc::new(AtomicUsize::new(0));
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (running, waiting) = runtime.block_on(async {
            // Three that are idle then, since each waits for the others.
            let all = Arc::new(Barrier::new(3));
            let idle = [(); 3].map(|()| {
                let all = all.clone();
                pool.task(move |_| all.wait()).start().unwrap()
            });
            for handle in idle {
                soon("they meet", handle).await.unwrap();
            }
            let ran_there = ran.clone();
            let running = pool.task(move |_| {
                begun.send(()).unwrap();
                // Real: the shutdown is to wait for it.
                thread::sleep(MS * 30);
                ran_there.fetch_add(1, Ordering::SeqCst);
                Instant::now()
            });
            let running = running.shield().start().unwrap();
            pool.limiter().set_total(1);
            let waiting: Vec<_> = (0..100)
                .map(|_| {
                    let ran = ran.clone();
                    pool.task(move |_| ran.fetch_add(1_000, Ordering::SeqCst)).shield().start().unwrap()
                })
                .collect();
            (running, waiting)
        });
        has_begun.recv_timeout(PATIENCE).unwrap();
        drop(runtime);
        let over = Instant::now();
        assert_eq!(ran.load(Ordering::SeqCst), 1, "what ran was waited for, and nothing else began");
        for handle in waiting {
            assert_eq!(futures::executor::block_on(handle), Err(OffloadError::RuntimeShutdown));
        }
        assert_eq!(pool.limiter().statistics().borrowed, 0);
        over - futures::executor::block_on(running).unwrap()
    };
    for which in [0, 1] {
        let mut took: Vec<_> = (0..9).map(|_| beyond_what_runs(which)).collect();
        took.sort();
        assert!(took[4] < MS * 10 && took[7] < MS * 50, "{took:?}");
    }
}

#[test]
fn runtime_that_is_gone_is_told_to_who_comes() {
    for runtime in runtimes() {
        let pool = BlockingPool::new("gone");
        let handle = runtime.handle().clone();
        runtime.block_on(pool.run(|| ())).unwrap();
        drop(runtime);
        let _entered = handle.enter();
        assert_eq!(futures::executor::block_on(pool.run(|| ())), Err(OffloadError::RuntimeShutdown));
        assert_eq!(
            futures::executor::block_on(BlockingPool::new("new").run(|| ())),
            Err(OffloadError::RuntimeShutdown)
        );
    }
}

#[test]
fn busy_pool_of_one_runtime_does_not_keep_another_one_from_shutting_down() {
    let pool = BlockingPool::builder("shared").max_running(4).build();
    let [left, right] = runtimes();
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    // Real sleeps: each keeps its thread for a moment, as work that blocks does.
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
fn task_of_a_runtime_that_did_not_wait_for_it_still_counts() {
    let (pool, gate) = (BlockingPool::new("left behind"), Gate::default());
    for runtime in runtimes() {
        let before = gate.inside();
        runtime.block_on(async {
            let block = gate.block();
            drop(pool.task(move |_| block()).shield().start().unwrap());
            until("it runs", || gate.inside() == before + 1).await;
        });
        runtime.shutdown_background();
    }
    let [here, _] = runtimes();
    here.block_on(async {
        assert_eq!(pool.run(|| 7).await, Ok(7));
        // The one of this runtime is counted until its thread has looked for another.
        until("two still run", || pool.statistics().running == 2).await;
        pool.close();
        let mut drained = tokio_test::task::spawn(Box::pin(pool.drained()));
        tokio_test::assert_pending!(drained.poll());
        gate.open();
        soon("they have ended", drained).await;
        until("their tokens are back", || pool.limiter().statistics().borrowed == 0).await;
    });
}

#[test]
fn threads_are_those_of_the_runtime_and_have_its_name() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().thread_name("of the service").enable_all().build().unwrap();
    let name = runtime.block_on(run_blocking(|| thread::current().name().map(str::to_owned)));
    assert_eq!(name, Ok(Some("of the service".to_owned())));
}

#[test]
fn tasks_that_were_abandoned_are_waited_for_and_their_threads_given_back() {
    let gate = Gate::default();
    let [runtime, _] = runtimes();
    runtime.block_on(async {
        let mut left = tokio_test::task::spawn(Box::pin(run_blocking(gate.block())));
        tokio_test::assert_pending!(left.poll());
        until("it runs", || gate.inside() == 1).await;
    });
    gate.open();
    drop(runtime);
    assert_eq!(gate.inside(), 0, "the shutdown has waited for it");
}
