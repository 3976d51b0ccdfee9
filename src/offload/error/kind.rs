//! [`OffloadErrorKind`], the kinds of [`OffloadError`](super::OffloadError).

/// The kind of an [`OffloadError`](super::OffloadError).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OffloadErrorKind {
    /// All threads of the pool are busy, and its queue is full.
    Full,
    /// The task did not start within its `max_wait`, and never will.
    QueueTimeout,
    /// The task did not complete before its `timeout` or `deadline`. [`OffloadError::progress`] returns how far the
    /// task came.
    ///
    /// [`OffloadError::progress`]: super::OffloadError::progress
    Timeout,
    /// The task was cancelled through its handle before it started.
    Cancelled,
    /// The task panicked. [`OffloadError::panic`] returns the panic.
    ///
    /// [`OffloadError::panic`]: super::OffloadError::panic
    Panicked,
    /// The pool was closed before the task started.
    Closed,
    /// The tokio runtime whose threads would have run the task was shut down before the task started.
    RuntimeShutdown,
    /// The operating system has no thread for the task, and none of the pool's threads is running.
    NoThread,
    /// There is no tokio runtime here whose threads could run the task.
    NoRuntime,
    /// The caller is a task of the pool, and would wait for its own end.
    WouldDeadlock,
}
