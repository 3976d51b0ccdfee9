//! [`Capture`] without the feature `backtrace`, or on a system where stacks can't be captured: the type has no value.

use std::convert::Infallible;

use super::frames::Stack;
use crate::watch::error::WatchError;
use crate::watch::slot::ThreadName;

/// Captures the stacks of other threads.
#[derive(Debug)]
pub(in crate::watch) struct Capture(Infallible);

impl Capture {
    pub(in crate::watch) fn install() -> Result<Self, WatchError> {
        Err(WatchError::StacksUnavailable("they need Linux with glibc: leave capture_stacks() out on this system"))
    }

    /// Captures the stack of a thread of this process.
    pub(in crate::watch) fn stack_of(&self, _thread: &ThreadName) -> Option<Stack> {
        match self.0 {}
    }
}
