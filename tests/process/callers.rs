//! Callers that leave.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use onelane::offload::OffloadErrorKind;
use onelane::{ProcessError, ProcessPool};
use support::waiting::until;

use crate::work::{add, pid, sleep_ms, spin};

#[tokio::test]
async fn dropped_running_task_kills_its_worker_and_frees_its_place() {
    let pool = ProcessPool::builder("dropped").workers(1).build();
    let before = pool.run(pid, ()).await.unwrap();
    {
        let mut task = pin!(pool.run(spin, ()));
        let is_pending = poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending);
        until("the task runs", || pool.stats().workers.busy == 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_ne!(pool.run(pid, ()).await.unwrap(), before);
    assert_eq!(pool.stats().workers.killed, 1);
}

#[tokio::test]
async fn dropped_queued_task_is_never_called() {
    let pool = ProcessPool::builder("queued").workers(1).build();
    let path = std::env::temp_dir().join(format!("onelane-queued-{}", pid(())));
    let running = pool.task(sleep_ms, 200).start().unwrap();
    let write = |path: std::path::PathBuf| std::fs::write(path, "called").unwrap();
    let queued = pool.task(write, path.clone()).start().unwrap();
    drop(queued);
    assert!(running.await.is_ok());
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
    assert!(!path.exists());
    assert_eq!(pool.stats().workers.killed, 0);
}

#[tokio::test]
async fn shielded_and_detached_tasks_go_on_without_their_caller() {
    let pool = ProcessPool::builder("shielded").workers(1).build();
    let before = pool.run(pid, ()).await.unwrap();
    drop(pool.task(sleep_ms, 50).shield().start().unwrap());
    pool.task(sleep_ms, 50).start().unwrap().detach();
    assert_eq!(pool.run(pid, ()).await.unwrap(), before);
    assert_eq!(pool.stats().tasks.started, 4);
}

#[tokio::test]
async fn cancelled_task_reports_it() {
    let pool = ProcessPool::builder("cancelled").workers(1).build();
    assert!(pool.run(pid, ()).await.is_ok());
    let running = pool.task(spin, ()).start().unwrap();
    let queued = pool.task(add, (1, 2)).start().unwrap();
    until("the task runs", || pool.stats().tasks.running == 1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    queued.cancel();
    running.cancel();
    let error = queued.await.unwrap_err();
    assert!(matches!(&error, ProcessError::NotStarted(error) if *error == OffloadErrorKind::Cancelled), "{error:?}");
    let error = running.await.unwrap_err();
    assert!(matches!(error, ProcessError::Cancelled(_)), "{error:?}");
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
}
