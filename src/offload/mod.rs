//! Work off the async threads: blocking calls and heavy computation, on threads meant for them, with a limit on how
//! much runs at the same time.
//!
//! | for | use |
//! |---|---|
//! | a blocking call: a file, a driver without async, `sleep` | [`run_blocking`] |
//! | a computation that takes longer than about 100 µs | [`run_cpu`] |
//! | either, with a label, a priority, time limits, cancellation | [`BlockingPool::task`], [`CpuPool::task`] |
//! | work that must not occupy the threads of all other work | a new [`BlockingPool`] or [`CpuPool`] |
//! | code that may crash, hang or take all memory | a [`ProcessPool`](crate::ProcessPool), with worker processes |
//! | a response from a blocking iterator | [`stream_blocking`], [`BlockingPool::stream`] |
//! | reading a stream in code that blocks | [`iter_from_stream`] |
//! | running async code from a thread | [`from_thread`] |
//! | at most N at a time, where N changes while the server runs | [`CapacityLimiter`] |
//! | work of different sizes under one limit | [`CapacityLimiter::acquire_many`] |
//! | clean-up that never waits for the work it cleans up after | [`CapacityLimiter::with_reserve`] |
//!
//! Other tools fit better in these cases:
//!
//! | for | use instead |
//! |---|---|
//! | a bounded queue, a `max_wait`, a refusal for a web client | an [`EndpointGuard`](crate::EndpointGuard) |
//! | at most N at a time, where N never changes, without statistics | `tokio::sync::Semaphore` |
//! | a stream that is async already | pass it to the response |
//! | an occasional file | `tokio::fs`, which uses `spawn_blocking` |
//! | a loop that blocks as long as the server runs | a [`BlockingService`](crate::background::BlockingService) |
//! | at most N calls *per second* | a rate limiter |
//!
//! # Behaviour
//!
//! | when | then |
//! |---|---|
//! | the caller drops a task that has not started | it never runs, and its closure is dropped by the caller |
//! | the caller drops a running task | its context reports that it is cancelled; it continues, with its token |
//! | the caller [detaches](TaskHandle::detach) a task | it runs, or continues, and its result is dropped |
//! | there are more tasks than tokens | the others are queued, or refused: see below |
//! | a task panics | [`Panicked`](OffloadErrorKind::Panicked), with message and location; the thread takes the next task |
//! | a task's `timeout` expires | [`Timeout`](OffloadErrorKind::Timeout); the [`Progress`] says if the task still runs |
//! | a task blocks on another one of the same limiter | the nested one never waits for its caller's token: see below |
//! | the reader of a stream is slow | the iterator waits without a thread or a token |
//! | the pool is closed | queued tasks fail, running ones continue |
//! | the runtime shuts down | the runtime waits for running tasks, and queued ones fail: see below |
//! | no thread can be started | the task, nested or not, waits for a thread of the pool, or fails with [`NoThread`] |
//!
//! [`NoThread`]: OffloadErrorKind::NoThread
//!
//! A task that is still running after its caller has dropped it can check [`TaskContext::is_cancelled`].
//!
//! Queued tasks start in the order of their [`Priority`], and in FIFO order within a priority. No priority is starved.
//! With `max_queued`, the pool refuses tasks beyond that number, not counting tasks for which a token is free.
//! Runtimes, and pools that share a limiter, take turns. A task holds a token only once it has a thread: where all
//! blocking threads of a runtime are busy, its tasks keep no token from others. The thread `onelane-pools` looks after
//! tasks that wait for a blocking thread, and requests a thread again if the system has refused one. The thread
//! `onelane-pools` starts with the first task of a [`BlockingPool`], and ends when no task has needed a new thread for
//! 10 s.
//! When an iterator continues after its reader was slow, it is queued behind the tasks of its priority that are already
//! waiting.
//!
//! When a runtime shuts down, it waits for the running tasks of a [`BlockingPool`], as it does for every
//! `spawn_blocking` call. Queued tasks fail, and idle threads don't delay the shutdown. A [`CpuPool`] continues.
//!
//! A task, a stream and the async code of a portal run in the `tracing` span and with the subscriber of the code that
//! creates them, whichever code polls them, and in the runtime of their caller. Values of `task_local!` stay behind.
//!
//! # Logs
//!
//! Pools emit `tracing` events with the target `onelane` and the field `pool`: tasks that were refused, timed out, left
//! the queue or were abandoned, at `debug`; panics, and threads that can't be started, at `warn`; a task without a
//! runtime, which is a bug in the service, at `error`. See [all events](crate::docs::events).
//!
//! # Nested tasks
//!
//! A task can block on another task of the same limiter without a deadlock if the future of the nested task is polled
//! on the outer task's own thread: by [`from_thread::block_on`], by `Handle::block_on`, by an executor, or by a runtime
//! that the outer task builds. How the nested task runs depends on what it could wait for:
//!
//! | the nested task is polled | it runs |
//! |---|---|
//! | in the runtime of the outer task | immediately, on the outer task's thread, without a token |
//! | in a runtime that the outer task has built or entered, while a token is free | on a thread of that runtime, or of the CPU pool |
//! | the same while no token is free | with the outer task's token, on a thread of its own or as in the first row |
//! | by a `LocalSet` that the outer task drives in its own runtime | with the outer task's token, on a thread of its own |
//! | by a task of `tokio::spawn` in the outer task's runtime, by a part of a `par_iter` | like the task of any other caller |
//!
//! So a runtime inside a task, such as an actix `System`, is not blocked by its tasks. They run beside each other as
//! long as the limiter has tokens for them. The last row waits for a token: a task that blocks on it may deadlock. Tasks
//! of two limiters that block on each other may deadlock too, and so may a task that blocks on `tokio::fs` while the
//! runtime has no other blocking thread, or on a task of a runtime whose only blocking thread is occupied by a task
//! further out, with a thread of a third runtime in between.
//!
//! A waker may be called on a thread of the pool after its task has ended. A waker that blocks holds up tasks that are
//! queued meanwhile, and the task that this thread runs next: it must not wait for those. A waker that blocks on
//! another task needs another thread, as it would with `spawn_blocking`, and deadlocks in a runtime with
//! `max_blocking_threads(1)`.
//!
//! A task or a stream that was submitted outside and is awaited on the outer task's thread follows the same rules while
//! it is queued: it is taken out of the queue where a nested task would run on that thread.
//!
//! A nested task may block on async code again. Where tokio does not let it do so on the outer task's thread, which is
//! inside the `block_on` of a `current_thread` [`Runtime`](tokio::runtime::Runtime) or inside a `LocalSet`, it gets a
//! thread of its own, with the [`stack_size`](PoolBuilder::stack_size) of the pool. That runtime or `LocalSet` goes on
//! meanwhile. The nested tasks of one outer task run one after the other, since they share its token, and the outer
//! task does not end before they do. If no thread can be started, the nested task runs on the outer task's thread.
//!
//! A nested task on the outer task's own thread runs to completion when its future is polled for the first time, or
//! before [`start`](Task::start) returns. So neither its time limits nor a timeout around it can end it. Several such
//! tasks run one after the other, and none of them can wait for another. A nested task has its own context, which does
//! not report the cancellation of the outer task. [`PoolStats`] counts it as started once it has ended, and as running
//! only on a thread of the pool.

mod blocking;
mod builder;
#[cfg(feature = "cpu")]
mod cpu;
mod error;
pub mod from_thread;
mod job;
mod limiter;
mod managed;
mod methods;
#[cfg(feature = "process")]
pub mod process;
mod stats;
mod stream;
mod task;
mod trace;
mod workers;

pub use self::blocking::{BlockingPool, run_blocking};
#[cfg(feature = "cpu")]
pub use self::builder::CpuPoolBuilder;
pub use self::builder::{BlockingPoolBuilder, PoolBuilder};
#[cfg(feature = "cpu")]
pub use self::cpu::{CpuPool, run_cpu};
pub use self::error::{OffloadError, OffloadErrorKind, Progress};
pub use self::job::{Cancelled, Priority, TaskContext};
pub use self::limiter::{
    AcquireTokens, AcquireTokensOwned, CapacityLimiter, HeldTokens, LimiterError, LimiterPermit, LimiterStats,
    OwnedLimiterPermit, SharedLimiter, TokenAcquisition,
};
pub use self::stats::{PoolStats, RunningTask};
pub use self::stream::{BlockingIter, BlockingStream, iter_from_stream, stream_blocking};
pub use self::task::{Task, TaskFuture, TaskHandle};

pub use crate::shared::Shared;
