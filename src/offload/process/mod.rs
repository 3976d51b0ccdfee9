//! Work in other processes: what a thread can't give is an end to code that crashes, hangs or takes all memory.
//!
//! | for | use |
//! |---|---|
//! | code that may crash, loop for ever, or allocate without end | [`ProcessPool::run`] |
//! | the same with a label, a priority, time limits | [`ProcessPool::task`] |
//! | computations that do none of that | [`run_cpu`](crate::run_cpu), which is ten times as fast |
//! | work that survives the end of the server | a queue of jobs in a database |
//!
//! # Behaviour
//!
//! | when | then |
//! |---|---|
//! | a task crashes, or calls `exit` | it fails with [`WorkerDied`](ProcessError::WorkerDied); other tasks continue |
//! | a task panics | [`Panicked`](ProcessError::Panicked), with message and location; its worker continues |
//! | a task exceeds its `timeout` | its worker is killed, after `kill_grace`, with all processes that it has started |
//! | a task uses more processor time than `cpu_limit` | [`CpuLimit`](ProcessError::CpuLimit) |
//! | a task needs too much memory | [`MemoryLimit`](ProcessError::MemoryLimit) |
//! | the caller drops a task that has not started | its function is never called |
//! | the caller drops a running task | its worker is killed, unless the task is [shielded](ProcessTask::shield) |
//! | a worker has run `max_tasks_per_worker`, or keeps more memory than `recycle_above` | it ends, without a delay |
//! | a worker was idle for `idle_timeout` | it ends; with the last one, all processes and threads of the pool |
//! | fewer workers than `min_idle` are idle | others are started |
//! | the server ends, in whatever way | the workers are killed |
//! | the pool is closed | queued tasks fail, running ones continue, idle workers end |
//!
//! # What a function may do
//!
//! A worker runs the same executable file as the server, but never `main`: no variable has the value that `main` has
//! given it, no thread of the server is there, no file is open, and there is no tokio runtime and no `tracing`
//! subscriber but the one that sends its events to the server. A function gets what it needs as arguments, or from the [initializer](ProcessPoolBuilder::initializer).
//! The worker keeps its statics from task to task.
//!
//! A worker shares nothing with the server but its working directory, its environment variables and its standard
//! output. So a guard or a limiter of the server is another one in the worker. Only a distributed guard is the same: a
//! task that would wait for the permit that its own caller holds gets
//! [`WouldDeadlock`](crate::guard::AcquireErrorKind::WouldDeadlock), unless the guard has keys. The worker survives `SIGTERM` and
//! `SIGINT`, which a terminal or a supervisor may send to all processes, so that the server can drain.
//!
//! A worker leads a process group. When the worker ends, all processes of the group are killed. A process that leaves
//! the group, as a daemon does with `setsid`, lives on. In a program that aborts on panics, a panic is
//! [`WorkerDied`](ProcessError::WorkerDied). What a function prints is flushed after the task, as far as the standard
//! library has buffered it; a C library flushes its own buffers.
//!
//! The arguments and the result are converted to bytes with [postcard](https://docs.rs/postcard), which has no
//! `#[serde(flatten)]` and no `#[serde(untagged)]`. Use [`Attachment`] for many bytes, and `Bytes`
//! for few: a `Vec<u8>` is converted one byte at a time.
//!
//! [`TaskContext::current`](crate::offload::TaskContext::current) works in a worker too: it returns the label and the
//! deadline of the task.

mod attachment;
mod builder;
mod codec;
mod conversion;
mod error;
mod function;
mod future;
#[cfg(target_os = "linux")]
mod linux;
mod managed;
mod pool;
#[cfg(feature = "landlock")]
mod sandbox;
mod settings;
mod stats;
mod task;
#[cfg(not(target_os = "linux"))]
mod unsupported;

#[cfg(target_os = "linux")]
use self::linux as platform;
#[cfg(not(target_os = "linux"))]
use self::unsupported as platform;

pub use self::attachment::Attachment;
pub use self::builder::ProcessPoolBuilder;
pub(crate) use self::conversion::Conversion;
pub use self::error::{ProcessError, WorkerDeath, WorkerExit};
pub use self::future::{ProcessFuture, ProcessHandle};
pub use self::pool::ProcessPool;
#[cfg(feature = "landlock")]
pub use self::sandbox::Sandbox;
pub use self::stats::{ProcessStats, WorkerCounts};
pub use self::task::ProcessTask;

/// Turns this process into a worker if a [`ProcessPool`] has started it as one, and returns otherwise.
///
/// With the feature `process-constructor`, which is on by default, workers need no call: they begin before `main`.
/// Without the feature, this function must be the first one that `main` calls: what comes before it would also run in
/// each worker. [`build`](ProcessPoolBuilder::build) fails if it was not called.
///
/// ```
/// onelane::offload::process::worker_guard();
/// // The server starts here.
/// ```
pub fn worker_guard() {
    platform::worker_guard();
}
