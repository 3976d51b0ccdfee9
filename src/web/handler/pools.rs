//! The pools of handlers that were given no other one.

use std::sync::LazyLock;

use crate::offload::BlockingPool;
#[cfg(feature = "rayon")]
use crate::offload::CpuPool;

/// How many requests may wait: with 40 at a time, ten rounds. A client that has come last and would wait for more is better
/// asked to come back later.
const MAX_QUEUED: usize = 400;

static BLOCKING: LazyLock<BlockingPool> =
    LazyLock::new(|| BlockingPool::builder("handlers").max_queued(MAX_QUEUED).build());

#[cfg(feature = "rayon")]
static CPU: LazyLock<CpuPool> = LazyLock::new(|| {
    let pool = CpuPool::builder("cpu-handlers").share_threads(CpuPool::global()).max_queued(MAX_QUEUED).build();
    pool.expect("it has no threads of its own to start")
});

/// The pool of `blocking_handler`s that were given [no other one](super::PoolHandler::on): 40 run at a time, 400 more may
/// wait, and further ones are answered with 503 and `Retry-After`.
///
/// What runs and what waits is counted for all runtimes together: axum's server has one, actix-web's has one for each worker.
///
/// Its limiter is not that of [`BlockingPool::global`], while FastAPI has one for both: there, endpoints that are slow take
/// the threads of what calls `run_in_threadpool` as well. To have it that way, make a pool with
/// [that limiter](crate::offload::BlockingPoolBuilder::limiter), and put handlers [on](super::PoolHandler::on) it.
///
/// # Examples
///
/// ```
/// use onelane::web::handler_pool;
///
/// let now = handler_pool().statistics();
/// assert_eq!((now.name, now.running, now.queued), ("handlers", 0, 0));
/// ```
#[must_use]
pub fn handler_pool() -> &'static BlockingPool {
    &BLOCKING
}

/// The pool of `cpu_handler`s that were given no other one: 400 may wait, and further ones are answered with 503 and
/// `Retry-After`.
///
/// Its threads are those of [`CpuPool::global`], and so is its limiter: together they run as many tasks at a time as the
/// machine has processors. What it has of its own is the queue, and its end.
///
/// # Panics
///
/// If it is the first use, and the threads can't be started.
#[cfg(feature = "rayon")]
#[must_use]
pub fn cpu_handler_pool() -> &'static CpuPool {
    &CPU
}
