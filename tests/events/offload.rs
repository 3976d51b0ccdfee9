//! Pools, streams and portals.

use futures::StreamExt;
use onelane::BlockingPool;
use onelane::offload::OffloadErrorKind;
use onelane::offload::from_thread::{FromThreadError, Portal};
use support::waiting::{Gate, until};

use crate::{SHORT, poll_and_drop, quiet_panic};

pub(crate) async fn scenario() {
    let pool = BlockingPool::builder("pool").max_running(1).max_queued(1).build();
    assert_eq!(pool.task(|_| quiet_panic()).label("panics").await.unwrap_err().kind(), OffloadErrorKind::Panicked);
    let mut stream = pool.stream([1, 2].into_iter().inspect(|_| quiet_panic()));
    assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), OffloadErrorKind::Panicked);

    let gate = Gate::default();
    let running = gate.fill(&pool, 1).await;
    poll_and_drop(pool.task(|_| ()).label("left").into_future());
    let late = pool.task(|_| ()).label("late").max_wait(SHORT).await;
    assert_eq!(late.unwrap_err().kind(), OffloadErrorKind::QueueTimeout);
    let queued = pool.task(|_| ()).start().unwrap();
    assert_eq!(pool.task(|_| ()).label("full").await.unwrap_err().kind(), OffloadErrorKind::Full);
    gate.open();
    queued.await.unwrap();
    for task in running {
        task.await.unwrap();
    }

    let gate = Gate::default();
    let block = gate.block();
    let overran = pool.task(move |_| block()).label("overran").timeout(SHORT).await;
    assert_eq!(overran.unwrap_err().kind(), OffloadErrorKind::Timeout);
    gate.open();
    until("the task has ended", || pool.stats().running == 0).await;
    gate.close();
    let block = gate.block();
    let abandoned = pool.task(move |_| block()).label("abandoned").start().unwrap();
    until("the task runs", || gate.inside() == 1).await;
    drop(abandoned);
    gate.open();

    let portal = Portal::current().unwrap();
    let call = tokio::task::spawn_blocking(move || portal.call(async { quiet_panic() }));
    assert!(matches!(call.await.unwrap(), Err(FromThreadError::Panicked(_))));
}

/// A thread without a runtime, and a runtime without threads.
pub(crate) fn scenario_of_runtimes() {
    let pool = BlockingPool::new("nowhere");
    let error = futures::executor::block_on(pool.task(|_| ()).label("no runtime").into_future()).unwrap_err();
    assert_eq!(error.kind(), OffloadErrorKind::NoRuntime);
    // No machine has enough memory for this stack.
    let stack = 1 << 46;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().thread_stack_size(stack).build().unwrap();
    assert_eq!(runtime.block_on(pool.run(|| ())).unwrap_err().kind(), OffloadErrorKind::NoThread);
}
