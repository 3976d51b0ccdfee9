//! Many callers at once, most of which drop their task.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use onelane::{BlockingPool, CpuPool};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::runtimes::runtimes;
use support::waiting::{soon, until};

#[test]
fn limit_holds_in_a_storm_of_dropped_tasks() {
    const TOTAL: usize = 6;
    for runtime in runtimes() {
        let pool = BlockingPool::builder("storm").max_running(TOTAL).build();
        let counts: Arc<[AtomicUsize; 4]> = Arc::default();
        runtime.block_on(async {
            let mut callers = JoinSet::new();
            for n in 0..3_000_u64 {
                let (pool, counts) = (pool.clone(), counts.clone());
                callers.spawn(async move {
                    let task_counts = counts.clone();
                    let work = move || {
                        let [now, most, started, ended] = &*task_counts;
                        started.fetch_add(1, Ordering::SeqCst);
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        // Real time: some callers give up while their task runs.
                        thread::sleep(Duration::from_micros(n % 300));
                        now.fetch_sub(1, Ordering::SeqCst);
                        ended.fetch_add(1, Ordering::SeqCst);
                    };
                    let patience = Duration::from_micros(fastrand::u64(0..30_000));
                    timeout(patience, pool.run(work)).await.is_ok()
                });
            }
            let mut answered = 0;
            while let Some(result) = soon("all tasks end", callers.join_next()).await {
                answered += usize::from(result.unwrap());
            }
            until("all tasks have returned", || pool.limiter().stats().borrowed == 0).await;
            let [now, most, started, ended] = &*counts;
            let (started, ended) = (started.load(Ordering::SeqCst), ended.load(Ordering::SeqCst));
            assert!(most.load(Ordering::SeqCst) <= TOTAL);
            assert_eq!((now.load(Ordering::SeqCst), started), (0, ended));
            assert!(
                answered <= started && started < 3_000,
                "{answered} of {started}: some were dropped before they started"
            );
            assert_eq!(pool.stats().queued, 0);
        });
    }
}

#[test]
fn every_task_of_many_callers_runs_once() {
    for runtime in runtimes() {
        let (blocking, cpu) = (BlockingPool::new("many"), CpuPool::new("many"));
        let ran = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let mut callers = JoinSet::new();
            for n in 0..200 {
                let (blocking, cpu, ran) = (blocking.clone(), cpu.clone(), ran.clone());
                callers.spawn(async move {
                    for _ in 0..200 {
                        let ran = ran.clone();
                        let work = move || ran.fetch_add(1, Ordering::Relaxed);
                        if n % 2 == 0 { blocking.run(work).await } else { cpu.run(work).await }.unwrap();
                    }
                });
            }
            while let Some(result) = soon("all tasks end", callers.join_next()).await {
                result.unwrap();
            }
        });
        assert_eq!(ran.load(Ordering::Relaxed), 40_000);
    }
}
