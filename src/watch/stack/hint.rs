//! [`Hint`], what to do about a blocked worker.

use std::fmt;

use super::frames::Stack;

/// What a blocked thread seems to do. The `Display` text says what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// The stack is not known, or ends in no function that is known to block.
    Unknown,
}

impl Hint {
    pub(in crate::watch) fn of(_stack: Option<&Stack>) -> Self {
        Self::Unknown
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "move the blocking call to run_blocking, or the computation to run_cpu",
        })
    }
}
