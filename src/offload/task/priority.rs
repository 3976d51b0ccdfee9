//! [`Priority`], who goes first when tasks wait.

/// Which tasks of a pool go first when there are more than threads.
///
/// Within a priority they begin in the order in which they came. The lower ones are not starved: of every eight tasks that
/// begin while several priorities wait, one is the oldest of those below the highest. It is so among the tasks of one
/// runtime: pools and runtimes that share a limiter take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After the others.
    Low,
    /// What is not said otherwise.
    #[default]
    Normal,
    /// Before the others.
    High,
}
