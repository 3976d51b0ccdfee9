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
    let pool = ProcessPool::builder("grace").workers(1).timeout(50 * MS).kill_grace(PATIENCE).build();
    let worker = pool.task(pid, ()).timeout(PATIENCE).await.unwrap();
    assert_eq!(pool.run(stop_early, ()).await.unwrap(), "half of it");
    assert_eq!(pool.task(pid, ()).timeout(PATIENCE).await.unwrap(), worker, "the worker was not killed");
}

#[tokio::test]
async fn worker_is_killed_at_the_end_of_the_grace() {
    let pool = ProcessPool::builder("grace").workers(1).timeout(50 * MS).kill_grace(200 * MS).build();
    let started = Instant::now();
    let error = pool.run(spin, ()).await.unwrap_err();
    let ProcessError::Timeout(death) = &error else { panic!("{error:?}") };
    assert_eq!(death.exit(), WorkerExit::Signal(9));
    assert!(started.elapsed() >= 250 * MS && started.elapsed() < PATIENCE, "{:?}", started.elapsed());
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
        let error = pool.task(spin, ()).timeout(10 * MS).await.unwrap_err();
        assert!(matches!(error, ProcessError::Timeout(_)), "{error:?}");
        late.push(started.elapsed().checked_sub(10 * MS).unwrap());
    }
    late.sort();
    println!("a timeout of 10 ms is late by {:?} in the median, {:?} at p99", late[50], late[98]);
    assert!(late[50] < 100 * MS && late[98] < PATIENCE, "{late:?}");
}

#[test]
fn settings_out_of_range_are_errors_that_name_the_setting() {
    let text = |builder: onelane::offload::process::ProcessPoolBuilder| builder.try_build().unwrap_err().to_string();
    let builder = || ProcessPool::builder("wrong");
    for (error, expected) in [
        (text(builder().workers(0)), "threads(0)"),
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
