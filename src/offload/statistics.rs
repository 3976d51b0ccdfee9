//! [`PoolStatistics`], a pool at one moment.

use std::borrow::Cow;

/// A pool at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolStatistics {
    /// The name of the pool.
    pub name: &'static str,
    /// How many tasks may run at a time: the total of its limiter, which others may share.
    pub max_running: usize,
    /// Tasks that run.
    pub running: usize,
    /// Those of them whose caller has left: nobody waits for what they do.
    pub abandoned: usize,
    /// Tasks that wait for a thread.
    pub queued: usize,
    /// Threads that stay for a moment in case there is more to do.
    pub idle_threads: usize,
    /// Tasks that have begun since the pool was made. Those of a runtime that was shut down no longer count.
    pub started: u64,
    /// Tasks that were refused because the pool was full, in the same way.
    pub refused: u64,
    /// The tasks that run and have a label.
    pub tasks: Vec<RunningTask>,
}

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RunningTask {
    /// Its label.
    pub label: Cow<'static, str>,
    /// Whether its caller has left.
    pub is_abandoned: bool,
}
