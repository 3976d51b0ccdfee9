//! Work leaves the async threads: blocking calls and heavy computation, on threads that are made for them, and how much of
//! it goes on at once.
//!
//! | I want | use |
//! |---|---|
//! | a call that blocks: a file, a driver without async, `sleep` | [`run_blocking`] |
//! | a computation that takes longer than some 100 µs | [`run_cpu`] |
//! | the same with a label, a priority, limits of time, a way to stop it | [`BlockingPool::task`], [`CpuPool::task`] |
//! | threads for one purpose, so that it can't take those of all others | a [`BlockingPool`] or a [`CpuPool`] of its own |
//! | a response from an iterator that blocks | [`stream_blocking`], [`BlockingPool::stream`] |
//! | a stream in code that blocks | [`iter_from_stream`] |
//! | async code from a thread, and an answer | [`from_thread`] |
//! | at most N at a time, and N changes while the server runs | [`CapacityLimiter`] |
//! | work of different size under one limit | [`CapacityLimiter::acquire_many`] |
//! | clean-up that never waits for those it cleans up after | [`CapacityLimiter::with_reserve`] |
//! | a bounded queue, a `max_wait`, a refusal for a web client | not this: an [`EndpointGuard`](crate::EndpointGuard) |
//! | at most N at a time, and N never changes | not this: `tokio::sync::Semaphore` does, if statistics don't matter |
//! | a stream that is async already | not this: give it to the response as it is |
//! | a file now and then | not this: `tokio::fs`, which does it with `spawn_blocking` |
//! | a loop that blocks as long as the server runs | not this: a [`BlockingService`](crate::background::BlockingService) |
//! | so many calls *a second* | not this: a rate limiter |
//!
//! # WorkersConfig
//!
//! | when | what happens |
//! |---|---|
//! | the caller leaves before the task has begun | it never runs, and what its closure holds is dropped where the caller was |
//! | the caller leaves while it runs | it goes on with its token, [`TaskContext::is_cancelled`] tells it, its result is dropped |
//! | more tasks than tokens | they wait, by [`Priority`], which starves nobody, and then in their order; with `max_queued` the others are refused. Runtimes, and pools that share a limiter, take turns |
//! | it panics | [`OffloadError::Panicked`] with message and place; the thread goes on with the next task |
//! | its `timeout` is over | the caller has [`OffloadError::Timeout`], which says whether it still runs |
//! | a task blocks on another one of the same pool, or of one with the same limiter | that one runs at once, without a token of its own: waiting for one, it might wait for its caller |
//! | a stream's reader is slow | its iterator waits without a thread and a token, and goes on behind those of its priority that wait then |
//! | the pool is closed | tasks that wait fail, those that run go on |
//! | the runtime shuts down | it waits for the tasks of a [`BlockingPool`] that run, as for all of `spawn_blocking`. Those that wait fail, and idle threads don't delay it. A [`CpuPool`] goes on |
//! | there is no thread to be had | the task waits for one of the pool's that works, or fails with [`NoThread`](OffloadError::NoThread) |
//!
//! Spans of `tracing` and the runtime of the caller are entered around the task.
//!
//! # Tasks within tasks
//!
//! A task that blocks on another one of the same pool does not wait for itself if the future of that one is polled on the
//! task's own thread: by [`from_thread::block_on`], by `Handle::block_on`, or by an executor. Inside of `Handle::block_on` it has
//! a thread of its own, since tokio would not let it block again on that one; there `par_iter` leaves the pool. A future that is spawned is polled
//! elsewhere: blocking on that one waits for a token like any other caller, perhaps in a circle. The same is so where tasks of
//! two pools block on each other, and where one blocks on `tokio::fs` while the runtime has no other blocking thread.
//!
//! Such a task has run to its end when its future is polled for the first time, or [`start`](Task::start) returns. So its
//! limits of time, and a timeout around it, don't end it, several of them run one after the other, and none can wait for
//! another. Its context is its own, and knows nothing of the caller of the task around it.

mod blocking;
#[cfg(feature = "rayon")]
mod cpu;
mod error;
pub mod from_thread;
mod limiter;
mod methods;
mod statistics;
mod stream;
mod task;
mod workers;

pub use self::blocking::{BlockingPool, BlockingPoolBuilder, run_blocking};
#[cfg(feature = "rayon")]
pub use self::cpu::{CpuPool, CpuPoolBuilder, run_cpu};
pub use self::error::OffloadError;
pub use self::limiter::{
    AcquireTokens, AcquireTokensOwned, CapacityLimiter, LimiterError, LimiterPermit, LimiterStatistics,
    OwnedLimiterPermit,
};
pub use self::statistics::{PoolStatistics, RunningTask};
pub use self::stream::{BlockingIter, BlockingStream, iter_from_stream, stream_blocking};
pub use self::task::{Cancelled, Priority, Task, TaskContext, TaskFuture, TaskHandle};

pub use crate::panic::Panic;
