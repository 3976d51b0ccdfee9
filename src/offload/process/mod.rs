//! Work in other processes, for code that may crash, hang or take all memory: a process can be killed, a thread can't.
//!
//! | for | use |
//! |---|---|
//! | code that may crash, loop forever, or allocate without end | [`ProcessPool::run`] |
//! | the same with a label, a priority or time limits | [`ProcessPool::task`] |
//! | computations that do none of that | [`run_cpu`](crate::run_cpu), whose calls cost much less |
//! | work that must survive the end of the server | a job queue in a database |
//!
//! # Behaviour
//!
//! | when | then |
//! |---|---|
//! | a task crashes or calls `exit` | it fails with [`WorkerDied`](ProcessError::WorkerDied); other tasks continue |
//! | a task panics | it fails with [`Panicked`](ProcessError::Panicked); its worker continues |
//! | a task exceeds its `timeout` and `kill_grace` | it fails with [`Timeout`](ProcessError::Timeout) |
//! | a task uses more processor time than `cpu_limit` | it fails with [`CpuLimit`](ProcessError::CpuLimit) |
//! | a task uses more memory than `memory_limit` | it fails with [`MemoryLimit`](ProcessError::MemoryLimit) |
//! | the caller drops a task that has not started | its function is never called |
//! | the caller drops a running task | its worker is killed, unless the task is [shielded](ProcessTask::shield) |
//! | a worker has run `max_tasks_per_worker` tasks, or keeps more than `recycle_above` | it ends after its task |
//! | a worker has been idle for `idle_timeout` | it ends; after the last one, the pool has no process and no thread |
//! | fewer workers than `min_idle` are idle | the pool starts others |
//! | the server ends, even by `SIGKILL` | the workers are killed |
//! | the pool is closed | queued tasks fail, running ones continue, idle workers end |
//!
//! A worker whose task exceeds a limit is killed. By default a task has no limits. Set
//! [`timeout`](ProcessPoolBuilder::timeout) and [`memory_limit`](ProcessPoolBuilder::memory_limit) for code that may
//! hang or take all memory.
//!
//! # What a function may do
//!
//! A worker runs the same executable file as the server, but not its `main`. So the worker has none of the values that
//! `main` stores in statics, no thread, no open file, no tokio runtime and no command line of the server. Its only `tracing` subscriber
//! [sends events to the server](crate::docs::events#process-pools). A function gets what it needs as arguments, or from the
//! [initializer](ProcessPoolBuilder::initializer). The worker keeps its statics from task to task.
//!
//! A worker inherits the working directory, the environment variables and the standard output of the server, but no
//! memory. So a guard or a limiter in a worker is independent of the same one in the server, unless it is a distributed
//! guard. A task that would wait for a distributed guard whose permit its own caller holds gets
//! [`WouldDeadlock`](crate::guard::AcquireErrorKind::WouldDeadlock), if the guard is a `static` and has no keys.
//!
//! A task may change its worker, and the worker runs other tasks later. If a task may be hostile, and not only faulty,
//! give each task a worker of its own with
//! [`max_tasks_per_worker(1)`](ProcessPoolBuilder::max_tasks_per_worker).
//!
//! A worker survives signals such as `SIGTERM` and `SIGINT`, which a terminal or a supervisor may send to all
//! processes, so that the server can drain.
//!
//! A worker leads a process group. When the worker ends, all processes of the group are killed. A process that leaves
//! the group, as a daemon does with `setsid`, survives.
//!
//! In a program that aborts on panics, a task that panics fails with [`WorkerDied`](ProcessError::WorkerDied).
//!
//! The worker flushes the standard library's buffer of the standard output after each task. A function that prints with
//! a C library must flush the buffers of that library.
//!
//! The arguments and the result are owned values, which are converted to bytes with
//! [postcard](https://docs.rs/postcard). These features of serde fail with [`Codec`](ProcessError::Codec), because
//! postcard has no names of fields: `flatten`, `untagged`, `tag`, a `skip_serializing_if` that leaves out a field, and
//! types without a fixed shape such as `serde_json::Value`. Convert such a value to a string. Use [`Attachment`] for large byte arrays and `Bytes` for small
//! ones: a `Vec<u8>` is converted one byte at a time.
//!
//! [`TaskContext::current`](crate::offload::TaskContext::current) works in a worker too: it returns the label and the
//! deadline of the task.

mod attachment;
mod builder;
mod checked;
mod codec;
mod conversion;
mod error;
mod function;
mod future;
#[cfg(target_os = "linux")]
mod linux;
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
/// With the feature `process-constructor`, which is enabled by default, this happens before `main`, and no call is
/// needed. Without the feature, `main` must call this function before anything else: code before the call would also
/// run in the worker. So `main` is not `async`: the runtime would already have threads.
/// [`build`](ProcessPoolBuilder::build) panics if this function was not called, or was called too late.
///
/// ```
/// # #[allow(clippy::needless_doctest_main)]
/// fn main() {
///     onelane::offload::process::worker_guard();
///     let runtime = tokio::runtime::Runtime::new().unwrap();
///     runtime.block_on(async {
///         // The server starts here.
///     });
/// }
/// ```
pub fn worker_guard() {
    platform::worker_guard();
}
