//! Tasks that block on tasks of the same pool.

use onelane::{BlockingPool, CpuPool};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::runtimes::runtimes;
use support::waiting::soon;

fn deep(pool: BlockingPool, depth: u32) -> u32 {
    if depth == 0 {
        return 0;
    }
    let below = pool.clone();
    1 + Handle::current().block_on(async move { pool.run(move || deep(below, depth - 1)).await.unwrap() })
}

#[test]
fn hundred_tasks_nested_ten_deep_end_in_a_full_pool() {
    for runtime in runtimes() {
        let pool = BlockingPool::builder("nested").max_running(4).build();
        let sum = runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..100 {
                let (pool, below) = (pool.clone(), pool.clone());
                tasks.spawn(async move { pool.run(move || deep(below, 10)).await.unwrap() });
            }
            let mut sum = 0;
            while let Some(result) = soon("all tasks end", tasks.join_next()).await {
                sum += result.unwrap();
            }
            sum
        });
        assert_eq!(sum, 1_000);
    }
}

#[tokio::test]
async fn nested_task_runs_without_a_token_and_has_its_own_context() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let inner = pool.clone();
    let outer = pool.task(move |cx| {
        let task = inner.task(move |cx| cx.label().map(str::to_owned));
        let inside = Handle::current().block_on(async { task.label("inner").await.unwrap() });
        (
            inside,
            cx.label().map(str::to_owned),
            onelane::offload::TaskContext::current().unwrap().label().map(str::to_owned),
        )
    });
    let (inside, label, current) = outer.label("outer").await.unwrap();
    assert_eq!(inside.as_deref(), Some("inner"));
    assert_eq!((label.as_deref(), current.as_deref()), (Some("outer"), Some("outer")));
}

#[tokio::test]
async fn task_that_a_part_of_a_task_blocks_on_takes_a_token() {
    use rayon::prelude::*;

    let pool = CpuPool::builder("two").threads(2).build();
    let inner = pool.clone();
    let sum = pool.run(move || {
        let one = |n: u64| futures::executor::block_on(inner.run(move || n)).unwrap();
        (0..1_000).into_par_iter().map(one).sum::<u64>()
    });
    assert_eq!(soon("all tasks end", sum).await, Ok(499_500));
    assert_eq!(pool.stats().started, 1_001);
}

#[tokio::test]
async fn nested_cpu_task_runs_on_the_thread_of_its_caller() {
    let pool = CpuPool::builder("one").threads(1).build();
    let inner = pool.clone();
    let threads = pool.run(move || {
        let thread = || std::thread::current().id();
        (futures::executor::block_on(inner.run(thread)).unwrap(), thread())
    });
    let (inside, outside) = soon("both tasks end", threads).await.unwrap();
    assert_eq!(inside, outside);
}

#[tokio::test]
async fn task_of_another_pool_does_not_run_inline() {
    let (outer, inner) = (BlockingPool::new("outer"), BlockingPool::new("inner"));
    let thread = outer.run(move || {
        let inner_thread = Handle::current().block_on(inner.run(|| std::thread::current().id())).unwrap();
        (inner_thread, std::thread::current().id())
    });
    let (inner_thread, outer_thread) = thread.await.unwrap();
    assert_ne!(inner_thread, outer_thread);
}
