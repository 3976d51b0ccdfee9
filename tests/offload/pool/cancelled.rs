//! Tasks whose caller drops or cancels them, and tasks that run out of time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use onelane::offload::{OffloadErrorKind, Progress, TaskContext};
use onelane::{BlockingPool, CapacityLimiter, CpuPool, OffloadError};
use tokio_test::{assert_pending, task};

use support::waiting::{Gate, MS, soon, until};

fn one() -> BlockingPool {
    BlockingPool::builder("one").max_running(1).build()
}

#[tokio::test]
async fn ten_thousand_queued_tasks_that_are_dropped_never_run() {
    let (pool, gate, ran) = (one(), Gate::default(), Arc::new(AtomicUsize::new(0)));
    let running = gate.fill(&pool, 1).await;
    let mut waiting = Vec::new();
    for _ in 0..10_000 {
        let ran = ran.clone();
        let mut future = task::spawn(Box::pin(pool.run(move || ran.fetch_add(1, Ordering::SeqCst))));
        assert_pending!(future.poll());
        waiting.push(future);
    }
    assert_eq!(pool.stats().queued, 10_000);
    drop(waiting);
    assert_eq!(pool.stats().queued, 0);
    assert_eq!(Arc::strong_count(&ran), 1, "the closures were dropped here");
    gate.open();
    for handle in running {
        handle.await.unwrap();
    }
    assert_eq!(pool.run(|| 7).await, Ok(7));
    assert_eq!((ran.load(Ordering::SeqCst), pool.stats().started), (0, 2));
}

#[tokio::test]
async fn future_that_is_never_polled_submits_nothing() {
    let pool = one();
    drop(pool.run(|| panic!("the task must not run")));
    drop(pool.task(|_| panic!("the task must not run")));
    assert_eq!((pool.stats().started, pool.stats().queued), (0, 0));
}

#[tokio::test]
async fn task_dropped_while_it_runs_is_cancelled_and_keeps_its_token_until_it_returns() {
    let (pool, gate, saw) = (one(), Gate::default(), Arc::new(AtomicBool::new(false)));
    let (block, saw_in_task) = (gate.block(), saw.clone());
    let mut dropped = task::spawn(Box::pin(async {
        let work = move |cx: &TaskContext| {
            block();
            saw_in_task.store(cx.is_cancelled(), Ordering::SeqCst);
        };
        pool.task(work).label("report").await
    }));
    assert_pending!(dropped.poll());
    until("the task runs", || gate.inside() == 1).await;
    drop(dropped);
    let statistics = pool.stats();
    assert_eq!((statistics.running, statistics.abandoned, pool.limiter().stats().borrowed), (1, 1, 1));
    assert!(statistics.tasks[0].is_abandoned && statistics.tasks[0].label == "report");
    let mut next = task::spawn(Box::pin(pool.run(|| 7)));
    assert_pending!(next.poll());
    gate.open();
    assert_eq!(soon("the next task runs", next).await, Ok(7));
    assert!(saw.load(Ordering::SeqCst));
}

#[tokio::test]
async fn shielded_task_that_is_dropped_runs_and_is_not_cancelled() {
    let (pool, gate) = (one(), Gate::default());
    let running = gate.fill(&pool, 1).await;
    let (ran, was_cancelled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (ran_in_task, was_cancelled_in_task) = (ran.clone(), was_cancelled.clone());
    let work = move |cx: &TaskContext| {
        was_cancelled_in_task.store(cx.is_cancelled(), Ordering::SeqCst);
        ran_in_task.fetch_add(1, Ordering::SeqCst);
    };
    drop(pool.task(work).shield().start().unwrap());
    assert_eq!(pool.stats().queued, 1);
    gate.open();
    until("the task has run", || ran.load(Ordering::SeqCst) == 1).await;
    assert!(!was_cancelled.load(Ordering::SeqCst));
    drop(running);
}

#[tokio::test]
async fn dropped_pool_still_runs_its_tasks() {
    let gate = Gate::default();
    let ran = Arc::new(AtomicUsize::new(0));
    let count = || {
        let (ran, block) = (ran.clone(), gate.block());
        move |_: &TaskContext| {
            block();
            ran.fetch_add(1, Ordering::SeqCst);
        }
    };
    let (blocking, cpu) = (one(), CpuPool::new("dropped"));
    for _ in 0..3 {
        drop(blocking.task(count()).shield().start().unwrap());
        drop(cpu.task(count()).shield().start().unwrap());
    }
    drop((blocking, cpu));
    gate.open();
    until("all tasks have run", || ran.load(Ordering::SeqCst) == 6).await;
}

#[tokio::test]
async fn detached_tasks_run_without_their_handles_and_are_not_cancelled() {
    let (pool, gate, saw) = (one(), Gate::default(), Arc::new(AtomicUsize::new(0)));
    let work = || {
        let (block, saw) = (gate.block(), saw.clone());
        move |cx: &TaskContext| {
            block();
            saw.fetch_add(if cx.is_cancelled() { 100 } else { 1 }, Ordering::SeqCst);
        }
    };
    let running = pool.task(work()).label("detached").start().unwrap();
    until("the task runs", || gate.inside() == 1).await;
    let queued = pool.task(work()).start().unwrap();
    running.detach();
    queued.detach();
    assert_eq!((pool.stats().queued, pool.stats().abandoned), (1, 1));
    // The rule for handles that are dropped.
    drop(pool.task(work()).start().unwrap());
    assert_eq!(pool.stats().queued, 1);
    gate.open();
    until("both tasks have run", || saw.load(Ordering::SeqCst) >= 2).await;
    until("their thread is released", || pool.limiter().stats().borrowed == 0).await;
    assert_eq!((saw.load(Ordering::SeqCst), pool.stats().started), (2, 2));
}

#[tokio::test]
async fn time_limits_of_a_detached_task_still_apply() {
    let (pool, gate) = (one(), Gate::default());
    let running = gate.fill(&pool, 1).await;
    let ran = Arc::new(AtomicBool::new(false));
    let ran_in_task = ran.clone();
    let late = pool.task(move |_| ran_in_task.store(true, Ordering::SeqCst)).max_wait(MS).start().unwrap();
    late.detach();
    tokio::time::sleep(MS * 5).await;
    gate.open();
    for task in running {
        task.await.unwrap();
    }
    pool.run(|| ()).await.unwrap();
    assert!(!ran.load(Ordering::SeqCst));
}

#[tokio::test]
async fn task_with_a_time_limit_of_zero_never_runs() {
    for nested in [false, true] {
        let pool = one();
        let inner = pool.clone();
        let attempt = async move {
            let never = || inner.task(|_| -> () { panic!("the task must not run") });
            let queued = never().max_wait(std::time::Duration::ZERO).await.unwrap_err();
            assert_eq!((queued.kind(), queued.progress()), (OffloadErrorKind::QueueTimeout, Progress::NotStarted));
            let timed_out = never().timeout(std::time::Duration::ZERO).await.unwrap_err();
            assert_eq!((timed_out.kind(), timed_out.progress()), (OffloadErrorKind::Timeout, Progress::NotStarted));
        };
        if nested {
            pool.run(|| onelane::offload::from_thread::block_on(attempt)).await.unwrap().unwrap();
        } else {
            attempt.await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn queued_task_fails_after_its_max_wait_and_never_runs() {
    let (pool, gate) = (one(), Gate::default());
    // A blocked thread would stop the paused clock of the runtime, so the test itself holds the token.
    let token = pool.limiter().try_acquire().unwrap();
    let started = tokio::time::Instant::now();
    let queued = pool.task(|_| panic!("the task must not run")).max_wait(MS * 50).timeout(MS * 500);
    let result: Result<(), OffloadError> = queued.await;
    let error = result.unwrap_err();
    assert_eq!(error, OffloadErrorKind::QueueTimeout);
    let waited = error.waited().unwrap();
    assert_eq!((waited, started.elapsed()), (MS * 50, MS * 50));
    let result = pool.task(|_| panic!("the task must not run")).max_wait(MS * 500).timeout(MS * 50).await;
    let error = result.map(|never: ()| never).unwrap_err();
    assert_eq!((error.kind(), error.progress()), (OffloadErrorKind::Timeout, Progress::NotStarted));
    assert_eq!(error.waited(), Some(MS * 50));
    let pool_with_limit =
        BlockingPool::builder("two").limiter(Arc::new(CapacityLimiter::new(0))).max_wait(MS * 20).build();
    let result = pool_with_limit.run(|| ()).await;
    assert_eq!(result.unwrap_err(), OffloadErrorKind::QueueTimeout);
    drop(token);
    assert_eq!(pool.stats().queued, 0);
    assert_eq!(pool.run(|| 7).await, Ok(7));
    gate.open();
}

fn timeout_error(still_running: bool) -> OffloadError {
    let pool = BlockingPool::builder("timeouts").limiter(Arc::new(CapacityLimiter::new(0))).build();
    let gate = Gate::default();
    let block = gate.block();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if still_running {
        pool.limiter().set_total(1);
    }
    let wait = std::thread::spawn(move || {
        let result = runtime.block_on(async { pool.task(move |_| block()).timeout(MS * 300).await });
        runtime.shutdown_background();
        result
    });
    wait.join().unwrap().unwrap_err()
}

#[test]
fn timeout_error_says_if_the_task_still_runs() {
    assert_eq!(
        (timeout_error(false).kind(), timeout_error(false).progress()),
        (OffloadErrorKind::Timeout, Progress::NotStarted)
    );
    assert_eq!(
        (timeout_error(true).kind(), timeout_error(true).progress()),
        (OffloadErrorKind::Timeout, Progress::Running)
    );
    assert!(timeout_error(true).to_string().contains("still runs"), "{}", timeout_error(true));
    assert!(timeout_error(false).to_string().contains("never started"), "{}", timeout_error(false));
}

#[tokio::test]
async fn task_that_times_out_is_cancelled_and_keeps_its_token_until_it_returns() {
    let (pool, gate) = (one(), Gate::default());
    let (block, saw) = (gate.block(), Arc::new(AtomicBool::new(false)));
    let saw_in_task = saw.clone();
    let work = move |cx: &TaskContext| {
        block();
        saw_in_task.store(cx.checkpoint().is_err(), Ordering::SeqCst);
    };
    let result = pool.task(work).timeout(MS * 300).await;
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.progress()), (OffloadErrorKind::Timeout, Progress::Running));
    assert_eq!(pool.stats().running, 1);
    gate.open();
    until("the task has returned", || pool.limiter().stats().borrowed == 0).await;
    assert!(saw.load(Ordering::SeqCst));
}

#[tokio::test]
async fn task_whose_deadline_has_passed_does_not_start() {
    let pool = CpuPool::new("late");
    let past = tokio::time::Instant::now();
    let result = pool.task(|_| panic!("the task must not run")).deadline(past).start().unwrap().await;
    let error = result.map(|never: ()| never).unwrap_err();
    assert_eq!((error.kind(), error.progress()), (OffloadErrorKind::Timeout, Progress::NotStarted));
}

#[tokio::test]
async fn time_limits_beyond_the_range_of_the_clock_never_expire() {
    let pool = one();
    let result = pool.task(|_| 7).timeout(std::time::Duration::MAX).max_wait(std::time::Duration::MAX).await;
    assert_eq!(result, Ok(7));
}
