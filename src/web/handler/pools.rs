//! The default pools of handlers.

use std::sync::LazyLock;

use crate::offload::BlockingPool;
#[cfg(feature = "cpu")]
use crate::offload::CpuPool;

/// The number of requests that may wait. With 40 at a time, the last one waits for ten rounds; a client that would wait
/// longer should retry later.
const MAX_QUEUED: usize = 400;

static BLOCKING: LazyLock<BlockingPool> =
    LazyLock::new(|| BlockingPool::builder("handlers").max_queued(MAX_QUEUED).build());

#[cfg(feature = "cpu")]
static CPU: LazyLock<CpuPool> = LazyLock::new(|| {
    CpuPool::builder("cpu-handlers").limiter(CpuPool::global().limiter().clone()).max_queued(MAX_QUEUED).build()
});

/// Returns the pool on which a `blocking_handler` runs unless it is given [another pool](super::PoolHandler::on).
///
/// It runs 40 requests at a time, and 400 more may wait. Further requests get status 503 and `Retry-After`. The numbers
/// apply to all runtimes together: axum's server has one runtime, actix-web's server has one for each worker.
///
/// The pool does not share the limiter of [`BlockingPool::global`]. FastAPI has one limiter for both, so its slow
/// endpoints also take the threads that `run_in_threadpool` needs. To get that behaviour, build a pool with [the global
/// limiter](crate::offload::BlockingPoolBuilder::limiter), and run handlers [on](super::PoolHandler::on) it.
///
/// # Examples
///
/// ```
/// use onelane::web::handler_pool;
///
/// let now = handler_pool().stats();
/// assert_eq!((&*now.name, now.running, now.queued), ("handlers", 0, 0));
/// ```
#[must_use]
pub fn handler_pool() -> &'static BlockingPool {
    &BLOCKING
}

/// Returns the pool on which a `cpu_handler` runs unless it is given another pool.
///
/// 400 requests may wait. Further requests get status 503 and `Retry-After`.
///
/// The pool has threads of its own, and shares the limiter of [`CpuPool::global`]: together they run as many tasks at a
/// time as the machine has processors. The queue is separate, and so is closing the pool.
#[cfg(feature = "cpu")]
#[must_use]
pub fn cpu_handler_pool() -> &'static CpuPool {
    &CPU
}
