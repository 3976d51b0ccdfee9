//! Process pools.

use onelane::ProcessPool;

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
    let panicking = |(): ()| panic!("on purpose");
    pool.task::<(), ()>(panicking, ()).label("panics").await.unwrap_err();
}
