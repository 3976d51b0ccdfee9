//! [`FromThreadError`], why async code could not be run from a thread, or returned no result.

use thiserror::Error;

use crate::panic::Panic;

/// Why async code could not be run from a thread, or returned no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FromThreadError {
    /// This thread runs async tasks, which the call would block.
    #[error("blocking wait on a thread that runs async tasks: use .await here, or run_blocking around blocking code")]
    BlockingInAsync,
    /// There is no tokio runtime here.
    #[error("no tokio runtime here: call the function from run_blocking, or pass a Portal to this thread")]
    NoRuntime,
    /// The portal was closed, or its runtime was shut down.
    #[error("the portal is closed, or its runtime was shut down: create a new portal")]
    Closed,
    /// The portal's task was cancelled, through its handle or with the portal.
    #[error("the task was cancelled, through its handle or with its portal")]
    Cancelled,
    /// The portal's task panicked.
    #[error("the task panicked: {0}")]
    Panicked(Panic),
}
