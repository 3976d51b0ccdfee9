//! [`WatchError`], the reason why a watch can't start.

use std::io;
use std::time::Duration;

/// The reason why a [`Watch`](super::Watch) can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The [`threshold`](super::WatchBuilder::threshold) is out of range.
    #[error("threshold({0:?}) is out of range: use 1 ms to 1 h")]
    Threshold(Duration),
    /// The system has no thread for the watch.
    #[error("the system has no thread for the watch: raise the limit of threads, or leave the watch out")]
    NoThread(#[source] io::Error),
    /// [`capture_stacks`](super::WatchBuilder::capture_stacks) is not possible in this process.
    #[error("stacks can't be captured: {0}")]
    StacksUnavailable(&'static str),
}
