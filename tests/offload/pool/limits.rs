//! How many tasks run, how many are queued, and which are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use onelane::offload::{CapacityLimiter, OffloadErrorKind};
use onelane::{BlockingPool, CpuPool};
use tokio::task::JoinSet;
use tokio_test::{assert_pending, task};

use support::waiting::{Gate, MS, soon, until};

#[tokio::test]
async fn forty_tasks_run_by_default_and_the_others_are_queued() {
    let (pool, gate) = (BlockingPool::new("forty"), Gate::default());
    let handles: Vec<_> = (0..100)
        .map(|_| {
            let block = gate.block();
            pool.task(move |_| block()).start().unwrap()
        })
        .collect();
    until("forty tasks run", || gate.inside() == 40).await;
    let statistics = pool.stats();
    assert_eq!((statistics.running, statistics.queued, &*statistics.name), (40, 60, "forty"));
    assert_eq!(statistics.max_running, 40);
    assert_eq!(pool.limiter().stats().borrowed, 40);
    pool.limiter().set_total(50);
    until("fifty tasks run", || gate.inside() == 50).await;
    gate.open();
    for handle in handles {
        soon("all tasks end", handle).await.unwrap();
    }
    let statistics = pool.stats();
    assert_eq!((statistics.running, statistics.queued, statistics.started), (0, 0, 100));
    assert_eq!(statistics.max_running, 50);
}

#[tokio::test]
async fn task_that_finds_no_free_token_is_refused_by_a_pool_without_a_queue() {
    let (pool, gate) = (BlockingPool::builder("strict").max_running(3).max_queued(0).build(), Gate::default());
    for _ in 0..20 {
        let running = gate.fill(&pool, 3).await;
        let refused = pool.run(|| ()).await;
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), error.pool()), (OffloadErrorKind::Full, Some("strict")));
        assert!(error.to_string().contains("and 0 tasks are queued"), "{error}");
        gate.open();
        for handle in running {
            soon("the tasks end", handle).await.unwrap();
        }
        until("all tokens are released", || pool.limiter().stats().borrowed == 0).await;
        gate.close();
    }
    assert_eq!(pool.stats().refused, 20);
}

#[tokio::test]
async fn queue_holds_as_many_tasks_as_its_bound_allows() {
    let (pool, gate) = (BlockingPool::builder("bounded").max_running(2).max_queued(5).build(), Gate::default());
    // All at once, before any task has started: tasks that only wait for their thread to start don't count.
    let started: Vec<_> = (0..10)
        .map(|_| {
            let block = gate.block();
            pool.task(move |_| block()).start()
        })
        .collect();
    assert_eq!(started.iter().filter(|started| started.is_ok()).count(), 7);
    assert!(started[7..].iter().all(Result::is_err));
    until("two tasks run", || gate.inside() == 2).await;
    assert_eq!(pool.stats().queued, 5);
    gate.open();
    for handle in started.into_iter().flatten() {
        soon("the tasks end", handle).await.unwrap();
    }
}

#[tokio::test]
async fn paused_pool_starts_no_task_until_the_pause_ends() {
    let pool = BlockingPool::new("paused");
    pool.limiter().set_total(0);
    let mut queued = task::spawn(Box::pin(pool.run(|| 7)));
    assert_pending!(queued.poll());
    // Real time: there is no event for a task that does not start.
    thread::sleep(MS * 20);
    assert_pending!(queued.poll());
    assert_eq!((pool.stats().queued, pool.stats().started), (1, 0));
    pool.limiter().set_total(1);
    assert_eq!(soon("the task runs", queued).await, Ok(7));
}

#[tokio::test]
async fn reduced_limit_revokes_no_token_and_applies_from_then_on() {
    let (pool, gate) = (BlockingPool::builder("shrinks").max_running(4).build(), Gate::default());
    let first = gate.fill(&pool, 4).await;
    pool.limiter().set_total(1);
    assert_eq!((gate.inside(), pool.limiter().stats().available), (4, -3));
    let (most, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut others = JoinSet::new();
    for _ in 0..50 {
        let (pool, most, now) = (pool.clone(), most.clone(), now.clone());
        others.spawn(async move {
            let work = move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Real time: gives another task the time to start meanwhile, if the limit allows it.
                thread::sleep(MS / 10);
                now.fetch_sub(1, Ordering::SeqCst);
            };
            pool.run(work).await
        });
    }
    until("the tasks are queued", || pool.stats().queued == 50).await;
    gate.open();
    while let Some(result) = soon("all tasks end", others.join_next()).await {
        result.unwrap().unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
    for handle in first {
        handle.await.unwrap();
    }
}

#[tokio::test]
async fn limit_that_changes_constantly_is_never_exceeded_and_starves_no_task() {
    const MOST: usize = 8;
    let pool = BlockingPool::builder("changes").max_running(MOST).build();
    let (most, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let changes = thread::spawn({
        let limiter = pool.limiter().clone();
        move || {
            for n in 0..3_000 {
                limiter.set_total([0, 1, 5, MOST, 2][n % 5]);
                thread::yield_now();
            }
            limiter.set_total(MOST);
        }
    });
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let (pool, most, now) = (pool.clone(), most.clone(), now.clone());
        tasks.spawn(async move {
            for _ in 0..50 {
                let (most, now) = (most.clone(), now.clone());
                let work = move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                };
                pool.run(work).await.unwrap();
            }
        });
    }
    while let Some(result) = soon("all tasks end", tasks.join_next()).await {
        result.unwrap();
    }
    changes.join().unwrap();
    assert!(most.load(Ordering::SeqCst) <= MOST);
    until("all tokens are released", || pool.limiter().stats().borrowed == 0).await;
}

#[tokio::test]
async fn two_pools_that_share_a_limiter_take_turns() {
    let limiter = Arc::new(CapacityLimiter::new(1));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let (left, right, gate) = (pool("left"), pool("right"), Gate::default());
    let blocked = gate.fill(&left, 1).await;
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let handles: Vec<_> = (0..6)
        .map(|n| {
            let (pool, order) = (if n < 3 { &left } else { &right }, order.clone());
            pool.task(move |_| order.lock().unwrap().push(n)).start().unwrap()
        })
        .collect();
    gate.open();
    for handle in handles.into_iter().chain(blocked) {
        soon("all tasks end", handle).await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 3, 1, 4, 2, 5]);
}

#[tokio::test]
async fn cpu_pools_that_share_a_limiter_share_nothing_else() {
    let first = CpuPool::builder("first").threads(1).build();
    let second = CpuPool::builder("second").limiter(first.limiter().clone()).max_queued(0).build();
    let thread = || thread::current().name().unwrap().to_owned();
    assert_eq!(second.run(thread).await.unwrap(), "second-0");
    let gate = Gate::default();
    let block = gate.block();
    let running = first.task(move |_| block()).start().unwrap();
    until("the task runs", || gate.inside() == 1).await;
    let refused = second.run(|| ()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.pool()), (OffloadErrorKind::Full, Some("second")));
    let queued = first.task(|_| 7).start().unwrap();
    second.close();
    gate.open();
    assert_eq!(soon("the task runs", queued).await, Ok(7));
    assert_eq!(running.await, Ok(()));
    assert_eq!(second.run(|| ()).await.unwrap_err(), OffloadErrorKind::Closed);
}

#[tokio::test]
async fn closed_limiter_closes_its_pool() {
    let (pool, gate) = (BlockingPool::builder("closes").max_running(1).build(), Gate::default());
    let running = gate.fill(&pool, 1).await;
    let queued = pool.task(|_| ()).start().unwrap();
    pool.limiter().close();
    assert_eq!(soon("the queued task is refused", queued).await.unwrap_err(), OffloadErrorKind::Closed);
    assert_eq!(pool.run(|| ()).await.unwrap_err(), OffloadErrorKind::Closed);
    gate.open();
    for handle in running {
        handle.await.unwrap();
    }
}
