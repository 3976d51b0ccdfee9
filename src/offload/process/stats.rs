//! [`ProcessStats`], a snapshot of a process pool.

use crate::offload::stats::PoolStats;

/// A snapshot of a [`ProcessPool`](super::ProcessPool).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ProcessStats {
    /// The tasks of the pool. A task counts as running once it has a worker, or while a worker is started for it.
    pub tasks: PoolStats,
    /// The worker processes.
    pub workers: WorkerCounts,
}

/// The worker processes of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WorkerCounts {
    /// Workers without a task.
    pub idle: usize,
    /// Workers that run a task, are starting, or are ending.
    pub busy: usize,
    /// Workers that have been started since the pool was created.
    pub started: u64,
    /// Workers that crashed, exited, or were ended by a signal from another process.
    pub died: u64,
    /// Workers that the pool has killed because a task exceeded a limit, its caller left, or the reply was bad.
    pub killed: u64,
}
