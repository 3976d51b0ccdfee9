//! [`ProcessStats`], a snapshot of a process pool.

use crate::offload::stats::PoolStats;

/// A snapshot of a [`ProcessPool`](super::ProcessPool).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ProcessStats {
    /// The tasks of the pool. A task that has a worker, or for which one is started, is running.
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
    /// Workers that run a task, start, or end.
    pub busy: usize,
    /// Workers that were started since the pool was created.
    pub started: u64,
    /// Workers that ended by themselves, or by a signal from outside: crashes.
    pub died: u64,
    /// Workers that the pool has killed, since a task exceeded a limit or its caller left.
    pub killed: u64,
}
