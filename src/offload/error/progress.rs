//! [`Progress`], how far a task without a result came.

/// How far a task came that has no result. Returned by [`OffloadError::progress`](super::OffloadError::progress).
///
/// A task that has timed out may be in any of these states. Before you submit the work again, check if the first
/// attempt may still change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Progress {
    /// The task never started, and never will.
    NotStarted,
    /// The task still runs, on its thread and with its token. A thread can't be stopped from outside.
    Running,
    /// The task started, and does not run any more.
    ///
    /// Today only a task that [panicked](super::OffloadErrorKind::Panicked) has this progress. A task that
    /// [timed out](super::OffloadErrorKind::Timeout) never has it: it is reserved for pools that can stop a running
    /// task, such as pools of processes.
    Stopped,
}
