//! How many run, how many wait, and who is refused.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use onelane::offload::CapacityLimiter;
use onelane::{BlockingPool, CpuPool, OffloadError};
use tokio::task::JoinSet;
use tokio_test::{assert_pending, task};

use support::waiting::{Gate, MS, soon, until};

#[tokio::test]
async fn forty_run_and_the_others_wait_unless_it_is_told_otherwise() {
    let (pool, gate) = (BlockingPool::new("forty"), Gate::default());
    let handles: Vec<_> = (0..100)
        .map(|_| {
            let block = gate.block();
            pool.task(move |_| block()).start().unwrap()
        })
        .collect();
    until("forty run", || gate.inside() == 40).await;
    let statistics = pool.statistics();
    assert_eq!((statistics.running, statistics.queued, statistics.name), (40, 60, "forty"));
    assert_eq!(statistics.max_running, 40);
    assert_eq!(pool.limiter().statistics().borrowed, 40);
    pool.limiter().set_total(50);
    until("fifty run", || gate.inside() == 50).await;
    gate.open();
    for handle in handles {
        soon("all end", handle).await.unwrap();
    }
    let statistics = pool.statistics();
    assert_eq!((statistics.running, statistics.queued, statistics.started), (0, 0, 100));
    assert_eq!(statistics.max_running, 50);
}

#[tokio::test]
async fn who_finds_no_thread_free_is_refused_where_none_may_wait() {
    let (pool, gate) = (BlockingPool::builder("strict").max_running(3).max_queued(0).build(), Gate::default());
    for _ in 0..20 {
        let running = gate.fill(&pool, 3).await;
        let refused = pool.run(|| ()).await;
        assert!(matches!(refused, Err(OffloadError::Full { pool: "strict", queued: 0, .. })), "{refused:?}");
        gate.open();
        for handle in running {
            soon("they end", handle).await.unwrap();
        }
        until("all tokens are back", || pool.limiter().statistics().borrowed == 0).await;
        gate.shut();
    }
    assert_eq!(pool.statistics().refused, 20);
}

#[tokio::test]
async fn as_many_wait_as_may_and_not_one_more() {
    let (pool, gate) = (BlockingPool::builder("bounded").max_running(2).max_queued(5).build(), Gate::default());
    // At once, before any of them has begun: those that only wait for their thread to come don't count.
    let started: Vec<_> = (0..10)
        .map(|_| {
            let block = gate.block();
            pool.task(move |_| block()).start()
        })
        .collect();
    assert_eq!(started.iter().filter(|started| started.is_ok()).count(), 7);
    assert!(started[7..].iter().all(Result::is_err));
    until("two run", || gate.inside() == 2).await;
    assert_eq!(pool.statistics().queued, 5);
    gate.open();
    for handle in started.into_iter().flatten() {
        soon("they end", handle).await.unwrap();
    }
}

#[tokio::test]
async fn pause_lets_none_begin_and_its_end_lets_all() {
    let pool = BlockingPool::new("paused");
    pool.limiter().set_total(0);
    let mut waits = task::spawn(Box::pin(pool.run(|| 7)));
    assert_pending!(waits.poll());
    // In vain: nothing tells that nothing happens.
    thread::sleep(MS * 20);
    assert_pending!(waits.poll());
    assert_eq!((pool.statistics().queued, pool.statistics().started), (1, 0));
    pool.limiter().set_total(1);
    assert_eq!(soon("it runs", waits).await, Ok(7));
}

#[tokio::test]
async fn limit_that_shrinks_revokes_nothing_and_holds_from_then_on() {
    let (pool, gate) = (BlockingPool::builder("shrinks").max_running(4).build(), Gate::default());
    let first = gate.fill(&pool, 4).await;
    pool.limiter().set_total(1);
    assert_eq!((gate.inside(), pool.limiter().statistics().available), (4, -3));
    let (most, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut others = JoinSet::new();
    for _ in 0..50 {
        let (pool, most, now) = (pool.clone(), most.clone(), now.clone());
        others.spawn(async move {
            let work = move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Real: another one has time to begin beside it, if it may.
                thread::sleep(MS / 10);
                now.fetch_sub(1, Ordering::SeqCst);
            };
            pool.run(work).await
        });
    }
    until("they wait", || pool.statistics().queued == 50).await;
    gate.open();
    while let Some(result) = soon("all end", others.join_next()).await {
        result.unwrap().unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
    for handle in first {
        handle.await.unwrap();
    }
}

#[tokio::test]
async fn limit_that_is_changed_all_the_time_is_never_exceeded_and_starves_nobody() {
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
    while let Some(result) = soon("all end", tasks.join_next()).await {
        result.unwrap();
    }
    changes.join().unwrap();
    assert!(most.load(Ordering::SeqCst) <= MOST);
    until("all tokens are back", || pool.limiter().statistics().borrowed == 0).await;
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
        soon("all end", handle).await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 3, 1, 4, 2, 5]);
}

#[tokio::test]
async fn cpu_pools_that_share_their_threads_share_their_limit_and_nothing_else() {
    let first = CpuPool::builder("first").threads(NonZero::new(1).unwrap()).build().unwrap();
    let second = CpuPool::builder("second").share_threads(&first).max_queued(0).build().unwrap();
    let thread = || thread::current().name().unwrap().to_owned();
    assert_eq!(second.run(thread).await.unwrap(), "first-0");
    let gate = Gate::default();
    let block = gate.block();
    let running = first.task(move |_| block()).start().unwrap();
    until("it runs", || gate.inside() == 1).await;
    assert!(matches!(second.run(|| ()).await, Err(OffloadError::Full { .. })));
    let waits = first.task(|_| 7).start().unwrap();
    second.close();
    gate.open();
    assert_eq!(soon("it runs", waits).await, Ok(7));
    assert_eq!((running.await, second.run(|| ()).await), (Ok(()), Err(OffloadError::Closed)));
}

#[tokio::test]
async fn limiter_that_is_closed_closes_its_pool() {
    let (pool, gate) = (BlockingPool::builder("closes").max_running(1).build(), Gate::default());
    let running = gate.fill(&pool, 1).await;
    let waits = pool.task(|_| ()).start().unwrap();
    pool.limiter().close();
    assert_eq!(soon("who waits is told", waits).await, Err(OffloadError::Closed));
    assert_eq!(pool.run(|| ()).await, Err(OffloadError::Closed));
    gate.open();
    for handle in running {
        handle.await.unwrap();
    }
}
