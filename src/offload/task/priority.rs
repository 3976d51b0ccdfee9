//! [`Priority`], who goes first when tasks wait.

/// Which tasks of a pool go first when there are more than threads.
///
/// Within a priority they begin in the order in which they came. The lower ones are not starved: of every
/// eight tasks that begin while several priorities wait, one is of the lowest that waits.
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
