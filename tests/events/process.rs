//! Process pools.

use std::time::Duration;

use onelane::{ProcessError, ProcessPool};
use support::waiting::until;
use tokio::time::sleep;

use crate::SHORT;

pub(crate) async fn scenario() {
    let pool = ProcessPool::builder("processes").workers(1).forward_stderr(false).build();
    let emit = |(): ()| {
        tracing::error!(size = 1, "one");
        tracing::warn!(size = 2, "two");
        tracing::info!(size = 3, "three");
        tracing::debug!(size = 4, "four");
        tracing::trace!(size = 5, "five");
    };
    pool.run(emit, ()).await.unwrap();
    let abort = |(): ()| {
        if std::hint::black_box(true) {
            std::process::abort();
        }
    };
    let error = pool.task(abort, ()).label("aborts").await.unwrap_err();
    assert!(matches!(error, ProcessError::WorkerDied(_)), "{error:?}");
    let hang = |(): ()| {
        while std::hint::black_box(true) {}
    };
    let limit = Duration::from_millis(300);
    let error = pool.task(hang, ()).label("hangs").timeout(limit).await.unwrap_err();
    assert!(matches!(error, ProcessError::Timeout(_)), "{error:?}");
    let error = pool.task(hang, ()).label("computes").cpu_limit(limit).await.unwrap_err();
    assert!(matches!(error, ProcessError::CpuLimit(_)), "{error:?}");
    let error = pool.task(|(): ()| crate::quiet_panic(), ()).label("panics").await.unwrap_err();
    assert!(matches!(error, ProcessError::Panicked(_)), "{error:?}");
    drop(pool.task(hang, ()).label("leaves").start().unwrap());
    let running = pool.task(hang, ()).label("cancelled").start().unwrap();
    until("the task runs", || pool.stats().tasks.running == 1).await;
    until("the worker is ready", || pool.stats().workers.started >= 4).await;
    sleep(SHORT).await;
    running.cancel();
    let error = running.await.unwrap_err();
    assert!(matches!(error, ProcessError::Cancelled(_)), "{error:?}");
    let value = |(): ()| serde_json::Value::Null;
    let error = pool.task(value, ()).label("value").await.unwrap_err();
    assert!(matches!(error, ProcessError::Codec(_)), "{error:?}");

    let broken = ProcessPool::builder("broken").workers(1).initializer(crate::quiet_panic).build();
    let error = broken.run(|(): ()| (), ()).await.unwrap_err();
    assert!(matches!(error, ProcessError::NoWorker { .. }), "{error:?}");
}
