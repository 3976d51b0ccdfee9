//! [`FromThreadError`], why async code could not be run from a thread, or came to no result.

use thiserror::Error;

use crate::panic::Panic;

/// Why async code could not be run from a thread, or came to no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FromThreadError {
    /// This thread runs async tasks, which would stand still meanwhile.
    #[error("blocking wait on a thread that runs async tasks: use .await here, or run_blocking around what blocks")]
    BlockingInAsync,
    /// There is no tokio runtime here.
    #[error("no tokio runtime here: call it from run_blocking, or hand a Portal to this thread")]
    NoRuntime,
    /// The portal was closed, or its runtime was shut down.
    #[error("the portal is closed: it, or its runtime, was shut down")]
    Closed,
    /// The portal's task was cancelled, by its handle or because the portal was closed.
    #[error("the task was cancelled")]
    Cancelled,
    /// The portal's task panicked.
    #[error("the task panicked: {0}")]
    Panicked(Panic),
}
