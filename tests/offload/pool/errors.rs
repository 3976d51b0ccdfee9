//! What the errors of tasks report: kind, pool, label, wait, progress, panic, source.

use std::error::Error;

use onelane::offload::{OffloadErrorKind, Progress, TaskHandle};
use onelane::{BlockingPool, CpuPool, OffloadError};

use support::durations::is_rounded;
use support::waiting::{Gate, MS, until};

fn is_complete(error: &OffloadError, kind: OffloadErrorKind, progress: Progress) {
    assert_eq!((error.kind(), error.progress()), (kind, progress), "{error:?}");
    assert_eq!((error.pool(), error.label()), (Some("exports"), Some("csv")), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("pool `exports`"), "{text}");
    if let Some((_, waited)) = text.split_once("within ") {
        assert_eq!(is_rounded(waited), Some(true), "{text}");
    }
    assert_eq!(text.contains("within "), kind == OffloadErrorKind::QueueTimeout, "{text}");
    let debug = format!("{error:?}");
    assert!(debug.contains("exports") && debug.contains("csv") && debug.contains(&format!("{kind:?}")), "{debug}");
    assert_eq!(error.panic().is_some(), kind == OffloadErrorKind::Panicked);
    assert!(matches!(kind, OffloadErrorKind::QueueTimeout | OffloadErrorKind::Timeout) == error.waited().is_some());
}

#[tokio::test]
async fn error_names_its_pool_and_its_task() {
    use OffloadErrorKind::{Cancelled, Closed, Full, Panicked, QueueTimeout, Timeout};

    let pool = BlockingPool::builder("exports").max_running(1).max_queued(1).build();
    let task = |work: Box<dyn FnOnce() + Send>| pool.task(move |_| work()).label("csv");
    let panicked = task(Box::new(|| panic!("broken"))).await.unwrap_err();
    is_complete(&panicked, Panicked, Progress::Stopped);
    assert_eq!(panicked.panic().unwrap().message(), "broken");
    assert!(panicked.to_string().starts_with("task `csv` of pool `exports` panicked: broken, at "), "{panicked}");

    let gate = Gate::default();
    let running = gate.fill(&pool, 1).await;
    let queued = task(Box::new(|| ())).start().unwrap();
    let full = task(Box::new(|| ())).start().map(TaskHandle::detach).unwrap_err();
    is_complete(&full, Full, Progress::NotStarted);
    assert!(full.to_string().starts_with("pool `exports` is full, and 1 tasks are queued: "), "{full}");
    queued.cancel();
    is_complete(&queued.await.unwrap_err(), Cancelled, Progress::NotStarted);
    let late = task(Box::new(|| ())).max_wait(MS * 2).await.unwrap_err();
    is_complete(&late, QueueTimeout, Progress::NotStarted);
    assert!(late.waited().unwrap() >= MS * 2);
    let late = task(Box::new(|| ())).timeout(MS * 2).await.unwrap_err();
    is_complete(&late, Timeout, Progress::NotStarted);
    gate.open();
    for task in running {
        task.await.unwrap();
    }
    gate.close();
    let late = task(Box::new(gate.block())).timeout(MS * 50).await.unwrap_err();
    is_complete(&late, Timeout, Progress::Running);
    assert!(late.waited().unwrap() >= MS * 50);
    let queued = task(Box::new(|| ())).start().unwrap();
    pool.close();
    is_complete(&queued.await.unwrap_err(), Closed, Progress::NotStarted);
    is_complete(&task(Box::new(|| ())).await.unwrap_err(), Closed, Progress::NotStarted);
    gate.open();
    until("the last task has returned", || pool.limiter().stats().borrowed == 0).await;
}

#[test]
fn error_outside_of_a_runtime_names_its_pool_too() {
    use futures::executor::block_on;

    let error = block_on(async { BlockingPool::new("exports").task(|_| ()).label("csv").await }).unwrap_err();
    is_complete(&error, OffloadErrorKind::NoRuntime, Progress::NotStarted);
    let cpu = CpuPool::builder("exports").threads(1).build();
    let error = block_on(async { cpu.task(|_| ()).label("csv").timeout(MS).await }).unwrap_err();
    is_complete(&error, OffloadErrorKind::NoRuntime, Progress::NotStarted);
}

#[tokio::test]
async fn nested_task_has_a_complete_error_too() {
    let pool = BlockingPool::builder("exports").max_running(1).build();
    let inner = pool.clone();
    let nested = move || {
        let task = inner.task(|_| panic!("broken")).label("csv");
        onelane::offload::from_thread::block_on(async { task.await.map(|never: ()| never) })
    };
    let error = pool.run(nested).await.unwrap().unwrap().unwrap_err();
    is_complete(&error, OffloadErrorKind::Panicked, Progress::Stopped);
}

#[test]
fn error_can_be_made_for_a_test() {
    for kind in [OffloadErrorKind::Full, OffloadErrorKind::QueueTimeout, OffloadErrorKind::Panicked] {
        let error = OffloadError::from(kind);
        assert_eq!(error, kind);
        assert_eq!((error.pool(), error.label(), error.waited()), (None, None, None));
        assert!(error.source().is_none() && error.panic().is_none());
        assert_eq!(error.into_panic().unwrap_err(), kind);
    }
    let error = OffloadError::from(OffloadErrorKind::Timeout);
    assert!(error.is_overload() && error.progress() == Progress::NotStarted);
    let error = error.with_progress(Progress::Running).with_source("the reason");
    assert!(!error.is_overload());
    assert_eq!(error.source().unwrap().to_string(), "the reason");
    assert_eq!(error.clone(), error);
    assert_ne!(error, OffloadErrorKind::Full);
    assert_ne!(error.clone().with_progress(Progress::NotStarted), error);
    assert_eq!(error.retry_after(), None);
    let with_retry = error.clone().with_retry_after(MS);
    assert_eq!(with_retry.retry_after(), Some(MS));
    assert_ne!(with_retry, error);
    assert!(format!("{with_retry:?}").contains("retry_after: 1ms") && !format!("{error:?}").contains("retry_after"));
}

#[tokio::test]
async fn panic_can_be_taken_out_of_its_error() {
    let error = onelane::run_blocking(|| panic!("broken")).await.map(|never: ()| never).unwrap_err();
    let panic: onelane::Panic = error.into_panic().unwrap();
    assert_eq!(panic.message(), "broken");
    assert!(panic.location().unwrap().contains("errors.rs"));
}

#[test]
fn error_is_one_word() {
    assert_eq!(size_of::<OffloadError>(), size_of::<usize>());
    assert_eq!(size_of::<Result<(), OffloadError>>(), size_of::<usize>());
}
