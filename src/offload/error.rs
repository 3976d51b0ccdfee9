//! [`OffloadError`], why work came to no result.

use std::time::Duration;

use thiserror::Error;

use crate::panic::Panic;

/// Why work that was handed to a pool came to no result, and what to do about it.
///
/// What the work itself returns is never in here: a closure that returns a `Result` gives a `Result` in a `Result`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// Every thread of the pool is taken, and as many tasks wait as its queue may hold.
    #[error("the pool {pool:?} is full, and {queued} tasks wait: try again later, or raise max_queued")]
    #[non_exhaustive]
    Full {
        /// The name of the pool.
        pool: &'static str,
        /// How many tasks waited.
        queued: usize,
    },
    /// The task did not begin within its `queue_timeout`, and never will.
    #[error("the task did not begin within {waited:?}: try again later, or raise queue_timeout")]
    #[non_exhaustive]
    QueueTimeout {
        /// How long it has waited.
        waited: Duration,
    },
    /// The task has not ended in its time.
    #[error("the task has not ended in its time{}", if *.still_running { ", and goes on: let it look at its context" } else { " and never began" })]
    #[non_exhaustive]
    Timeout {
        /// Whether it still runs, on its thread and with its permit: a thread can't be stopped from outside. If not, it
        /// never began, and never will.
        still_running: bool,
    },
    /// The task was cancelled before it began, through its handle.
    #[error("the task was cancelled before it began")]
    Cancelled,
    /// The task panicked.
    #[error("the task panicked: {0}")]
    Panicked(Panic),
    /// The pool was closed, before the task began.
    #[error("the pool is closed and takes no work any more: try another instance, or later")]
    Closed,
    /// The tokio runtime whose threads would have run the task was shut down before it began.
    #[error("the runtime was shut down before the task began")]
    RuntimeShutdown,
    /// The operating system has no thread for the task, and none of the pool's runs.
    #[error("no thread can be started for the task: run fewer at a time, or raise the limit of the process")]
    NoThread,
    /// There is no tokio runtime here whose threads could run the task.
    #[error("no tokio runtime here: call it from a task, or inside of Runtime::block_on or Handle::enter")]
    NoRuntime,
}
