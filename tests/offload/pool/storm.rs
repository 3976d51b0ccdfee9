//! Many callers at once, most of which drop their task.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use onelane::offload::CapacityLimiter;
use onelane::{BlockingPool, CpuPool};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::runtimes::runtimes;
use support::waiting::{MS, soon, until};

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

/// Callers of pools that share tokens, of a pool without a queue, and of tokio's own blocking threads, on runtimes that
/// share the pools and have few threads or many. No task is longer than 50 ms. Returns the longest call.
fn storm_of_few_threads(length: Duration) -> Duration {
    let limiter = Arc::new(CapacityLimiter::new(3));
    let sharing = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let strict = BlockingPool::builder("strict").max_running(2).max_queued(0).build();
    let pools = [sharing("first"), sharing("second"), BlockingPool::new("own"), strict];
    let end = Instant::now() + length;
    let runtimes = [1, 2, 3, 64].map(|threads| {
        let pools = pools.clone();
        thread::spawn(move || {
            let runtime =
                Builder::new_multi_thread().worker_threads(1).max_blocking_threads(threads).enable_all().build();
            runtime.unwrap().block_on(async {
                let mut callers = JoinSet::new();
                for n in 0..6 {
                    let pools = pools.clone();
                    callers.spawn(async move {
                        let mut longest = Duration::ZERO;
                        while Instant::now() < end {
                            let length = if fastrand::u8(..) == 0 { MS * 50 } else { MS / 100 * fastrand::u32(..30) };
                            let work = move || thread::sleep(length);
                            let start = Instant::now();
                            match n {
                                0 => soon("tokio's own call ends", spawn_blocking(work)).await.unwrap(),
                                1 => {
                                    drop(timeout(MS * fastrand::u32(..3), pools[fastrand::usize(..4)].run(work)).await)
                                }
                                _ => drop(soon("the task ends", pools[fastrand::usize(..4)].run(work)).await),
                            }
                            longest = longest.max(start.elapsed());
                            if fastrand::u8(..) < 8 {
                                // Real time: idle moments, in which threads are given up.
                                tokio::time::sleep(MS * fastrand::u32(..30)).await;
                            }
                        }
                        longest
                    });
                }
                callers.join_all().await.into_iter().max().unwrap()
            })
        })
    });
    let longest = runtimes.map(|runtime| runtime.join().unwrap()).into_iter().max().unwrap();
    futures::executor::block_on(async {
        for pool in &pools {
            pool.close();
            pool.drained().await.unwrap();
            assert_eq!((pool.stats().queued, pool.limiter().stats().borrowed), (0, 0));
        }
    });
    longest
}

#[test]
fn no_call_hangs_in_a_storm_on_runtimes_with_few_threads() {
    storm_of_few_threads(Duration::from_secs(2));
}

#[test]
#[ignore = "takes 15 s, and its time limit needs a machine that does nothing else"]
fn no_call_takes_a_second_in_a_storm_on_runtimes_with_few_threads() {
    let longest = storm_of_few_threads(Duration::from_secs(15));
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
