//! [`OffloadError`], why a task has no result.

use std::time::Duration;

use thiserror::Error;

use crate::panic::Panic;

const STILL_RUNNING: &str = "it still runs, so let it check its context, or raise timeout";
const NEVER_STARTED: &str = "it never started, so try again later, or raise timeout";

/// Why a task of a pool has no result, and what to do about it.
///
/// The closure's own errors are not part of this enum: a closure that returns a `Result` yields a `Result` in a
/// `Result`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// All threads of the pool are busy, and its queue is full.
    #[error("the pool {pool:?} is full, and {queued} tasks are waiting: try again later, or raise max_queued")]
    #[non_exhaustive]
    Full {
        /// The name of the pool.
        pool: &'static str,
        /// How many tasks were queued.
        queued: usize,
    },
    /// The task did not start within its `queue_timeout`, and never will.
    #[error("the task did not start within {waited:?}: try again later, or raise queue_timeout")]
    #[non_exhaustive]
    QueueTimeout {
        /// How long the task was queued.
        waited: Duration,
    },
    /// The task did not complete before its `timeout` or `deadline`.
    #[error("the task did not complete in time: {}", if *.still_running { STILL_RUNNING } else { NEVER_STARTED })]
    #[non_exhaustive]
    Timeout {
        /// `true` if the task is still running, on its thread and with its token, since a thread can't be stopped from
        /// outside. `false` if the task never started, and never will.
        still_running: bool,
    },
    /// The task was cancelled through its handle before it started.
    #[error("the task was cancelled through its handle before it started")]
    Cancelled,
    /// The task panicked.
    #[error("the task panicked: {0}")]
    Panicked(Panic),
    /// The pool was closed before the task started.
    #[error("the pool is closed: submit the task to another pool, or send the request to another instance")]
    Closed,
    /// The tokio runtime whose threads would have run the task was shut down before the task started.
    #[error("the runtime was shut down before the task started: submit it from a runtime that is running")]
    RuntimeShutdown,
    /// The operating system has no thread for the task, and none of the pool's threads is running.
    #[error("no thread can be started for the task: run fewer tasks at a time, or raise the process's thread limit")]
    NoThread,
    /// There is no tokio runtime here whose threads could run the task.
    #[error("no tokio runtime here: submit the task from async code, or inside Runtime::block_on or Handle::enter")]
    NoRuntime,
}
