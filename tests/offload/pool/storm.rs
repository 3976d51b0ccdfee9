//! Many callers at once, most of whom leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use onelane::{BlockingPool, CpuPool};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::pool::gate::runtimes;
use support::waiting::{soon, until};

#[test]
fn callers_that_leave_in_a_storm_never_let_more_run_than_may() {
    const TOTAL: usize = 6;
    for runtime in runtimes() {
        let pool = BlockingPool::builder("storm").max_running(TOTAL).build();
        let counts: Arc<[AtomicUsize; 4]> = Arc::default();
        runtime.block_on(async {
            let mut callers = JoinSet::new();
            for n in 0..3_000_u64 {
                let (pool, counts) = (pool.clone(), counts.clone());
                callers.spawn(async move {
                    let there = counts.clone();
                    let work = move || {
                        let [now, most, began, ended] = &*there;
                        began.fetch_add(1, Ordering::SeqCst);
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        // Real: callers leave while it runs, too.
                        thread::sleep(Duration::from_micros(n % 300));
                        now.fetch_sub(1, Ordering::SeqCst);
                        ended.fetch_add(1, Ordering::SeqCst);
                    };
                    let patience = Duration::from_micros(fastrand::u64(0..30_000));
                    timeout(patience, pool.run(work)).await.is_ok()
                });
            }
            let mut answered = 0;
            while let Some(result) = soon("all end", callers.join_next()).await {
                answered += usize::from(result.unwrap());
            }
            until("all have returned", || pool.limiter().statistics().borrowed == 0).await;
            let [now, most, began, ended] = &*counts;
            let (began, ended) = (began.load(Ordering::SeqCst), ended.load(Ordering::SeqCst));
            assert!(most.load(Ordering::SeqCst) <= TOTAL);
            assert_eq!((now.load(Ordering::SeqCst), began), (0, ended));
            assert!(answered <= began && began < 3_000, "{answered} of {began}: some left before they began");
            assert_eq!(pool.statistics().queued, 0);
        });
    }
}

#[test]
fn every_task_of_many_callers_runs_once() {
    for runtime in runtimes() {
        let (blocking, cpu) = (BlockingPool::new("many"), CpuPool::new("many").unwrap());
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
            while let Some(result) = soon("all end", callers.join_next()).await {
                result.unwrap();
            }
        });
        assert_eq!(ran.load(Ordering::Relaxed), 40_000);
    }
}
