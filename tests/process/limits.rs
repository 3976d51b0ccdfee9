//! Limits of time and memory, and settings out of range.

use std::hint::black_box;
use std::thread::sleep;
use std::time::{Duration, Instant};

use onelane::offload::process::WorkerExit;
use onelane::offload::{OffloadErrorKind, TaskContext};
use onelane::{ProcessError, ProcessPool};
use support::waiting::{MS, PATIENCE, until};

use crate::work::{add, allocate, burn_ms, pid, resident_memory, sleep_ms, spin};

#[tokio::test]
async fn endless_loop_ends_at_its_timeout() {
    let pool = ProcessPool::builder("timeout").workers(1).build();
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
    let started = Instant::now();
    let error = pool.task(spin, ()).timeout(100 * MS).await.unwrap_err();
    assert!(started.elapsed() >= 100 * MS);
    let ProcessError::Timeout(death) = error else { panic!("{error:?}") };
    assert_eq!(death.exit(), WorkerExit::Signal(9));
    assert!(death.ran_for() >= 90 * MS && death.ran_for() < 5_000 * MS, "{:?}", death.ran_for());
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
    assert_eq!(pool.stats().workers.killed, 1);
}

#[tokio::test]
async fn queued_task_ends_at_its_limits_without_being_called() {
    let pool = ProcessPool::builder("queued").workers(1).timeout(5_000 * MS).build();
    let busy = pool.task(sleep_ms, 300).start().unwrap();
    let kind = |error: ProcessError| match error {
        ProcessError::NotStarted(error) => error.kind(),
        other => panic!("{other:?}"),
    };
    let error = pool.task(add, (1, 2)).timeout(10 * MS).await.unwrap_err();
    assert_eq!(kind(error), OffloadErrorKind::Timeout);
    let error = pool.task(add, (1, 2)).max_wait(10 * MS).await.unwrap_err();
    assert_eq!(kind(error), OffloadErrorKind::QueueTimeout);
    assert!(busy.await.is_ok());
    assert_eq!(pool.stats().workers.killed, 0);
}

#[tokio::test]
async fn allocation_above_the_limit_fails_its_task() {
    let pool = ProcessPool::builder("memory").workers(1).memory_limit(200 << 20).forward_stderr(false).build();
    assert_eq!(pool.run(allocate, 50 << 20).await.unwrap(), (50 << 20) / 4_096);
    let error = pool.run(allocate, 1 << 30).await.unwrap_err();
    assert!(matches!(error, ProcessError::MemoryLimit(_)), "{error:?}");
    assert_eq!(pool.run(allocate, 50 << 20).await.unwrap(), (50 << 20) / 4_096);
}

/// Uses 64 KiB of the stack for each level, which the system counts as no allocation, and waits.
fn fill_stack(levels: u32) -> u8 {
    let frame = black_box([1_u8; 64 << 10]);
    if levels == 0 {
        sleep(PATIENCE);
        return frame[0];
    }
    fill_stack(levels - 1).wrapping_add(frame[usize::try_from(levels).unwrap()])
}

#[tokio::test]
async fn memory_that_is_no_allocation_is_limited_too() {
    let base = ProcessPool::builder("base").workers(1).build().run(resident_memory, ()).await.unwrap();
    let pool = ProcessPool::builder("stack").workers(1).memory_limit(base + (12 << 20)).build();
    let started = Instant::now();
    let error = pool.run(fill_stack, 18 << 4).await.unwrap_err();
    let ProcessError::MemoryLimit(death) = error else { panic!("{error:?}") };
    assert_eq!(death.exit(), WorkerExit::Signal(9), "the pool has killed it");
    assert!(death.peak_memory().unwrap() > base + (12 << 20) && started.elapsed() < PATIENCE);
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
}

#[tokio::test]
async fn processor_time_of_a_task_is_limited() {
    let pool = ProcessPool::builder("cpu").workers(1).cpu_limit(100 * MS).build();
    // A worker may use more for several tasks, and a task that waits uses none.
    let worker = pool.run(pid, ()).await.unwrap();
    for _ in 0..4 {
        assert_eq!(pool.run(burn_ms, 50).await.unwrap(), worker);
    }
    assert_eq!(pool.run(sleep_ms, 300).await.unwrap(), worker);
    let started = Instant::now();
    let error = pool.run(spin, ()).await.unwrap_err();
    let ProcessError::CpuLimit(death) = &error else { panic!("{error:?}") };
    assert_eq!(death.exit(), WorkerExit::Signal(9));
    assert!(started.elapsed() >= 100 * MS && started.elapsed() < PATIENCE);
    assert_ne!(pool.task(burn_ms, 300).cpu_limit(PATIENCE).await.unwrap(), worker);
    let error = pool.task(burn_ms, 80).cpu_limit(20 * MS).await.unwrap_err();
    assert!(matches!(error, ProcessError::CpuLimit(_)), "{error:?}");
    assert_eq!(pool.stats().workers.killed, 2);
}

/// Returns early when the task is cancelled.
fn stop_early((): ()) -> String {
    let cx = TaskContext::current().unwrap();
    while cx.checkpoint().is_ok() {
        sleep(MS);
    }
    "half of it".to_owned()
}

#[tokio::test]
async fn task_that_returns_within_the_grace_has_its_result() {
    let pool = ProcessPool::builder("grace").workers(1).timeout(300 * MS).kill_grace(PATIENCE).build();
    let worker = pool.task(pid, ()).timeout(PATIENCE).await.unwrap();
    assert_eq!(pool.run(stop_early, ()).await.unwrap(), "half of it");
    assert_eq!(pool.task(pid, ()).timeout(PATIENCE).await.unwrap(), worker, "the worker was not killed");
}

#[tokio::test]
async fn worker_is_killed_at_the_end_of_the_grace() {
    let pool = ProcessPool::builder("grace").workers(1).timeout(300 * MS).kill_grace(200 * MS).build();
    assert!(pool.task(pid, ()).timeout(PATIENCE).await.is_ok());
    let started = Instant::now();
    let error = pool.run(spin, ()).await.unwrap_err();
    let ProcessError::Timeout(death) = &error else { panic!("{error:?}") };
    assert_eq!(death.exit(), WorkerExit::Signal(9));
    assert!(started.elapsed() >= 500 * MS && started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}

#[tokio::test]
async fn caller_that_leaves_grants_no_grace() {
    let pool = ProcessPool::builder("leaves").workers(1).timeout(PATIENCE).kill_grace(10 * PATIENCE).build();
    assert!(pool.run(pid, ()).await.is_ok());
    let running = pool.task(spin, ()).start().unwrap();
    until("the task runs", || pool.stats().workers.busy == 1).await;
    drop(running);
    until("the worker is killed", || pool.stats().workers.killed == 1).await;
}

#[tokio::test]
async fn timeouts_are_on_time() {
    let pool = ProcessPool::builder("overshoot").workers(1).build();
    let mut late = Vec::new();
    for _ in 0..100 {
        assert!(pool.run(pid, ()).await.is_ok());
        let started = Instant::now();
        match pool.task(spin, ()).timeout(10 * MS).await.unwrap_err() {
            ProcessError::Timeout(_) => late.push(started.elapsed().checked_sub(10 * MS).unwrap()),
            // On a busy machine, the task may have to wait that long for its thread.
            ProcessError::NotStarted(error) => assert_eq!(error.kind(), OffloadErrorKind::Timeout),
            other => panic!("{other:?}"),
        }
    }
    late.sort();
    let (median, p99) = (late[late.len() / 2], late[late.len() * 98 / 100]);
    println!("a timeout of 10 ms is late by {median:?} in the median, {p99:?} at p99");
    assert!(late.len() > 50 && median < 100 * MS && p99 < PATIENCE, "{late:?}");
}

#[tokio::test]
async fn flood_of_events_does_not_keep_a_task_from_its_timeout() {
    struct Slow;
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Slow {
        fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            sleep(Duration::from_micros(200));
        }
    }

    let subscriber = tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), Slow);
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let pool = ProcessPool::builder("flood").workers(1).build();
    let flood = |(): ()| {
        loop {
            tracing::info!("again");
        }
    };
    let task = pool.task::<(), ()>(flood, ()).timeout(300 * MS);
    let error = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap_err();
    assert!(matches!(error, ProcessError::Timeout(_)), "{error:?}");
}

#[tokio::test]
async fn panic_and_events_are_not_results_and_may_be_longer() {
    let pool = ProcessPool::builder("notices").workers(1).max_reply(100).forward_stderr(false).build();
    let error = pool.run(|(): ()| -> u8 { panic!("{}", "long ".repeat(10_000)) }, ()).await.unwrap_err();
    let ProcessError::Panicked(panic) = error else { panic!("{error:?}") };
    assert!(panic.message().starts_with("long ") && panic.message().len() < 20_000);
    let error = pool.run(|(): ()| "x".repeat(200), ()).await.unwrap_err();
    assert!(matches!(error, ProcessError::BadReply { .. }), "{error:?}");
}

#[tokio::test]
async fn endless_limits_are_limits_too() {
    let pool = ProcessPool::builder("endless").workers(1).start_timeout(Duration::MAX).max_reply(usize::MAX);
    let pool = pool.cpu_limit(Duration::MAX).timeout(Duration::MAX).kill_grace(Duration::MAX).build();
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
    assert!(pool.task(sleep_ms, 30).timeout(Duration::MAX).await.is_ok());
    assert_eq!(pool.stats().workers.busy, 0);
}

#[tokio::test]
async fn start_of_a_worker_counts_for_the_timeout_of_its_task() {
    let hanging = || sleep(Duration::from_secs(1_000));
    let pool = ProcessPool::builder("hanging").workers(1).initializer(hanging).build();
    let task = pool.task(add, (1, 2)).timeout(200 * MS);
    let error = tokio::time::timeout(Duration::from_secs(8), task).await.unwrap().unwrap_err();
    let ProcessError::NotStarted(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), OffloadErrorKind::Timeout);
    assert_eq!(error.pool(), Some("hanging"));
    pool.close();
    pool.drained().await.unwrap();
    assert_eq!(pool.stats().workers.busy, 0);
}

#[tokio::test]
async fn words_about_memory_concern_only_the_task_that_writes_them() {
    let pool = ProcessPool::builder("words").workers(1).memory_limit(1 << 30).forward_stderr(false).build();
    pool.run(|(): ()| eprintln!("memory allocation of 7 bytes failed"), ()).await.unwrap();
    let error = pool.run(|(): ()| -> u8 { std::process::abort() }, ()).await.unwrap_err();
    assert!(matches!(error, ProcessError::WorkerDied(_)), "{error:?}");
}

#[test]
fn settings_out_of_range_are_errors_that_name_the_setting() {
    let text = |builder: onelane::offload::process::ProcessPoolBuilder| builder.try_build().unwrap_err().to_string();
    let builder = || ProcessPool::builder("wrong");
    for (error, expected) in [
        (text(builder().workers(0)), "workers() must be from 1"),
        (text(builder().timeout(Duration::ZERO)), "timeout of zero"),
        (text(builder().start_timeout(Duration::ZERO)), "start_timeout of zero"),
        (text(builder().memory_limit(0)), "memory_limit(0)"),
        (text(builder().max_tasks_per_worker(0)), "max_tasks_per_worker(0)"),
        (text(builder().max_reply(0)), "max_reply(0)"),
        (text(builder().cpu_limit(Duration::ZERO)), "cpu_limit of zero"),
        (text(builder().recycle_above(0)), "recycle_above(0)"),
        (text(builder().idle_timeout(Duration::ZERO)), "idle_timeout of zero"),
        (text(builder().workers(2).min_idle(3)), "min_idle is above workers"),
        (text(builder().max_wait(Duration::ZERO)), "max_wait of zero"),
    ] {
        assert!(error.contains("pool `wrong`") && error.contains(expected), "{error}");
    }
}
