//! Workers that are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;

use futures::future::join_all;
use onelane::ProcessPool;
use support::waiting::until;

use crate::processes::is_running;
use crate::work::{pid, resident_memory};

#[tokio::test]
async fn worker_is_replaced_after_its_last_task() {
    let pool = ProcessPool::builder("recycled").workers(1).max_tasks_per_worker(2).build();
    let mut pids = Vec::new();
    for _ in 0..6 {
        pids.push(pool.run(pid, ()).await.unwrap());
    }
    assert!(pids[0] == pids[1] && pids[1] != pids[2] && pids[2] == pids[3] && pids[3] != pids[4], "{pids:?}");
    assert_eq!(pool.stats().workers.died, 0);
}

#[tokio::test]
async fn recycling_under_load_loses_no_task() {
    let pool = ProcessPool::builder("load").workers(2).max_tasks_per_worker(20).build();
    let task = |number: u32| (number, pid(()));
    let results = join_all((0..4_000).map(|number| pool.run(task, number))).await;
    let mut tasks_of_workers = BTreeMap::<i32, u32>::new();
    for (expected, result) in (0..).zip(results) {
        let (number, worker) = result.unwrap();
        assert_eq!(number, expected);
        *tasks_of_workers.entry(worker).or_default() += 1;
    }
    assert!(tasks_of_workers.values().all(|tasks| *tasks <= 20), "{tasks_of_workers:?}");
    // The last workers have run fewer tasks.
    let full = tasks_of_workers.values().filter(|tasks| **tasks >= 18);
    assert!(full.clone().count() >= tasks_of_workers.len() - 2, "{tasks_of_workers:?}");
    assert!(full.collect::<BTreeSet<_>>().len() > 1, "all have run the same number: {tasks_of_workers:?}");
    let workers = pool.stats().workers;
    assert_eq!((workers.died, workers.killed, workers.started), (0, 0, tasks_of_workers.len() as u64));
}

#[tokio::test]
async fn each_task_may_have_a_process_of_its_own() {
    let pool = ProcessPool::builder("own").workers(4).max_tasks_per_worker(1).build();
    let workers = join_all((0..300).map(|_| pool.run(pid, ()))).await;
    let workers: BTreeSet<i32> = workers.into_iter().map(Result::unwrap).collect();
    assert_eq!(workers.len(), 300);
    until("all have ended", || pool.stats().workers.busy == 0).await;
    assert!(!workers.into_iter().any(is_running));
}

#[tokio::test]
async fn worker_that_keeps_much_memory_is_replaced() {
    let base = ProcessPool::builder("base").workers(1).build().run(resident_memory, ()).await.unwrap();
    let pool = ProcessPool::builder("keeps").workers(1).recycle_above(base + (64 << 20)).build();
    let worker = pool.run(pid, ()).await.unwrap();
    let keep = |bytes: usize| {
        black_box(vec![1_u8; bytes].leak());
        pid(())
    };
    assert_eq!(pool.run(keep, 1 << 20).await.unwrap(), worker);
    assert_eq!(pool.run(keep, 100 << 20).await.unwrap(), worker);
    let next = pool.run(pid, ()).await.unwrap();
    assert_ne!(next, worker);
    assert_eq!(pool.run(pid, ()).await.unwrap(), next);
}
