//! The results of tasks, and their context.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};

use onelane::offload::{Cancelled, OffloadErrorKind, Priority, TaskContext};
use onelane::{BlockingPool, CpuPool, run_blocking, run_cpu};
use tokio::runtime::Handle;

use crate::runtimes::runtimes;
use support::waiting::{Gate, MS, soon, until};

#[test]
fn value_is_returned_on_both_kinds_of_runtime() {
    for runtime in runtimes() {
        let value = runtime.block_on(async { (run_blocking(|| 7).await, run_cpu(|| 8).await) });
        assert_eq!(value, (Ok(7), Ok(8)));
    }
}

#[tokio::test]
async fn error_of_the_closure_is_part_of_its_value() {
    let result = run_blocking(|| "x".parse::<u8>()).await;
    assert!(result.unwrap().is_err());
}

#[tokio::test]
async fn panic_has_message_and_location_and_the_thread_continues() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let line = line!() + 1;
    let result = pool.run(|| -> u8 { panic!("broken {}", 7) }).await;
    let panic = result.unwrap_err().into_panic().unwrap();
    assert_eq!(panic.message(), "broken 7");
    assert_eq!(panic.location(), Some(&*format!("{}:{line}:38", file!())));
    assert_eq!(pool.run(|| 7).await, Ok(7));
    let result = run_cpu(|| -> u8 { panic_any(7) }).await;
    let panic = result.unwrap_err().into_panic().unwrap();
    assert_eq!(panic.message(), "(no message)");
}

#[tokio::test]
async fn thread_survives_a_result_whose_drop_panics() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the destructor panics");
        }
    }

    let pool = BlockingPool::builder("one").max_running(1).build();
    let gate = Gate::default();
    let first = gate.fill(&pool, 1).await;
    // Its result is dropped on the thread, since the caller has dropped the task.
    let shielded = pool.task(|_| Bomb).shield().start().unwrap();
    drop(shielded);
    gate.open();
    drop(first);
    assert_eq!(soon("the thread continues", pool.run(|| 7)).await, Ok(7));
}

#[tokio::test]
async fn span_and_subscriber_of_the_caller_are_entered() {
    use tracing::subscriber::with_default;
    use tracing_subscriber::Registry;

    let (blocking, cpu) = with_default(Registry::default(), || {
        let span = tracing::info_span!("request").entered();
        let id = span.id();
        let pools = (BlockingPool::new("spans"), CpuPool::new("spans"));
        let same = move |_: &TaskContext| tracing::Span::current().id() == id;
        (pools.0.task(same.clone()).start().unwrap(), pools.1.task(same).start().unwrap())
    });
    assert!(blocking.await.unwrap() && cpu.await.unwrap());
    assert!(run_blocking(|| tracing::Span::current().is_none()).await.unwrap());
}

#[test]
fn runtime_of_the_caller_is_entered() {
    for runtime in runtimes() {
        let id = runtime.handle().id();
        let same = runtime.block_on(async move {
            let blocking = run_blocking(move || Handle::current().id() == id).await;
            (blocking, run_cpu(move || Handle::current().id() == id).await)
        });
        assert_eq!(same, (Ok(true), Ok(true)));
    }
}

#[tokio::test]
async fn blocking_is_allowed_inside_a_task() {
    let value = run_blocking(|| Handle::current().block_on(async { tokio::spawn(async { 7 }).await.unwrap() })).await;
    assert_eq!(value, Ok(7));
    let read = run_blocking(|| Handle::current().block_on(tokio::fs::read("Cargo.toml"))).await.unwrap();
    assert!(!read.unwrap().is_empty());
}

#[test]
fn without_a_runtime_a_blocking_pool_fails_and_a_cpu_pool_works() {
    use futures::executor::block_on;

    assert_eq!(block_on(run_blocking(|| 7)).unwrap_err(), OffloadErrorKind::NoRuntime);
    assert_eq!(block_on(run_cpu(|| 7)), Ok(7));
}

#[tokio::test]
async fn context_has_label_and_deadline() {
    let pool = BlockingPool::new("contexts");
    let task = pool.task(|cx| (cx.label().map(str::to_owned), cx.deadline().is_some(), cx.checkpoint()));
    let (label, has_deadline, checkpoint) = task.label("thumbnail").timeout(MS * 60_000).await.unwrap();
    assert_eq!((label.as_deref(), has_deadline, checkpoint), (Some("thumbnail"), true, Ok(())));
    assert!(TaskContext::current().is_none());
    let current = pool.run(|| TaskContext::current().is_some_and(|cx| cx.label().is_none())).await;
    assert_eq!(current, Ok(true));
}

#[tokio::test]
async fn task_cancelled_while_it_is_queued_never_runs() {
    let (pool, gate) = (BlockingPool::builder("one").max_running(1).build(), Gate::default());
    let running = gate.fill(&pool, 1).await;
    let queued = pool.task(|_| panic!("the task must not run")).shield().start().unwrap();
    assert!(!queued.is_finished());
    queued.cancel();
    assert!(queued.is_finished());
    assert_eq!(queued.await.unwrap_err(), OffloadErrorKind::Cancelled);
    assert_eq!(pool.stats().queued, 0);
    gate.open();
    assert_eq!(running.into_iter().next().unwrap().await, Ok(()));
}

#[tokio::test]
async fn task_cancelled_while_it_runs_sees_it_and_still_returns_its_result() {
    let pool = BlockingPool::new("cancels");
    let task = pool.task(|cx| {
        while cx.checkpoint().is_ok() {
            std::thread::yield_now();
        }
        cx.checkpoint()
    });
    let handle = task.shield().start().unwrap();
    until("the task runs", || pool.stats().running == 1).await;
    handle.cancel();
    assert_eq!(soon("the task returns", handle).await, Ok(Err(Cancelled::default())));
}

#[tokio::test]
async fn closed_pool_refuses_queued_and_new_tasks_and_running_ones_continue() {
    let (pool, gate) = (BlockingPool::builder("one").max_running(1).build(), Gate::default());
    let running = gate.fill(&pool, 1).await;
    let queued = pool.task(|_| ()).priority(Priority::High).start().unwrap();
    pool.close();
    assert_eq!(queued.await.unwrap_err(), OffloadErrorKind::Closed);
    assert_eq!(pool.run(|| ()).await.unwrap_err(), OffloadErrorKind::Closed);
    let mut drained = tokio_test::task::spawn(Box::pin(pool.drained()));
    tokio_test::assert_pending!(drained.poll());
    gate.open();
    soon("no task is running", drained).await.unwrap();
    assert_eq!(pool.stats().running, 0);
    for handle in running {
        assert_eq!(handle.await, Ok(()));
    }
    let never_used = BlockingPool::new("never used");
    never_used.close();
    assert_eq!(never_used.run(|| ()).await.unwrap_err(), OffloadErrorKind::Closed);
    soon("no task is running", never_used.drained()).await.unwrap();
}

#[tokio::test]
async fn panic_has_its_payload_and_can_be_resumed() {
    #[derive(Debug, PartialEq)]
    struct QuotaExceeded(u32);

    let error = run_blocking(|| panic_any(QuotaExceeded(7))).await.map(|never: ()| never).unwrap_err();
    let copy = error.clone();
    let payload = error.into_panic().unwrap().into_payload().unwrap();
    assert_eq!(payload.downcast_ref(), Some(&QuotaExceeded(7)));
    let panic = copy.into_panic().unwrap();
    assert!(panic.clone().into_payload().is_none(), "the clones share one payload");
    assert_eq!(panic.message(), "(no message)");

    let error = run_cpu(|| panic_any(QuotaExceeded(8))).await.map(|never: ()| never).unwrap_err();
    let resumed = catch_unwind(AssertUnwindSafe(|| error.into_panic().unwrap().resume_unwind()));
    let Err(payload) = resumed;
    assert_eq!(payload.downcast_ref(), Some(&QuotaExceeded(8)));
}
