//! [`Priority`], the order of queued tasks.

/// Determines which tasks of a pool start first when there are more tasks than threads.
///
/// Tasks of the same priority start first in, first out. Lower priorities are not starved: while tasks of several
/// priorities are queued, one of every eight tasks that start is the oldest of those below the highest queued priority.
/// This applies to the tasks of one runtime. Pools and runtimes that share a limiter take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Starts after the other priorities.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Starts before the other priorities.
    High,
}

impl Priority {
    /// The number of priorities. As an integer, each priority is below this number.
    pub(crate) const COUNT: usize = Self::High as usize + 1;
}
