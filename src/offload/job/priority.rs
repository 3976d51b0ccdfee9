//! [`Priority`], the order of queued tasks.

/// Which tasks of a pool start first when there are more tasks than threads.
///
/// Tasks of the same priority start first in, first out. Lower priorities are not starved: while several priorities
/// wait, one of every eight tasks that start is the oldest of those below the highest priority. This applies to the
/// tasks of one runtime. Pools and runtimes that share a limiter take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After the others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before the others.
    High,
}
