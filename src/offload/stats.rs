//! [`PoolStats`], a snapshot of a pool.

use std::borrow::Cow;

/// A snapshot of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolStats {
    /// The name of the pool.
    pub name: Cow<'static, str>,
    /// How many tasks may run at a time: the total of the pool's limiter, which other pools may share.
    pub max_running: usize,
    /// Tasks that are running on threads of the pool. A [nested task](crate::offload#nested-tasks) that runs on the
    /// thread of its caller is part of that caller's task.
    pub running: usize,
    /// Running tasks whose caller has dropped them.
    pub abandoned: usize,
    /// Tasks that wait for a thread.
    pub queued: usize,
    /// Threads without a task, which a CPU pool keeps. A blocking pool leaves them to the runtime, and has none.
    pub idle_threads: usize,
    /// Tasks that have started since the pool was created. A task that was withdrawn before does not count. Tasks of a
    /// runtime that was shut down are no longer counted.
    pub started: u64,
    /// Tasks that were refused because the pool was full, counted in the same way.
    pub refused: u64,
    /// The tasks counted in `running` that have a label.
    pub tasks: Vec<RunningTask>,
}

/// A task that is running.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RunningTask {
    /// The label of the task.
    pub label: Cow<'static, str>,
    /// `true` if its caller has dropped the task.
    pub is_abandoned: bool,
}
