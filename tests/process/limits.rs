//! Time, memory and the number of tasks.

use std::time::{Duration, Instant};

use onelane::offload::OffloadErrorKind;
use onelane::offload::process::WorkerExit;
use onelane::{ProcessError, ProcessPool};

use crate::work::{add, allocate, pid, sleep_ms, spin};

const MS: Duration = Duration::from_millis(1);

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
        (text(builder().max_wait(Duration::ZERO)), "max_wait of zero"),
    ] {
        assert!(error.contains("pool `wrong`") && error.contains(expected), "{error}");
    }
}
