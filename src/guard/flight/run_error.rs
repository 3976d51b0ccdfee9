//! [`RunError`], why a run has no value for a caller.

use std::sync::Arc;
use std::time::Duration;

use crate::panic::Panic;

/// Why a run has no value for a caller. [`FlightError`](super::FlightError) adds the flight's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RunError<E> {
    Failed(Arc<E>),
    Panicked(Panic),
    TooManyWaiters,
    Timeout { waited: Duration },
    WouldDeadlock,
    Closed,
}

impl<E> Clone for RunError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(Arc::clone(error)),
            Self::Panicked(panic) => Self::Panicked(panic.clone()),
            Self::TooManyWaiters => Self::TooManyWaiters,
            Self::Timeout { waited } => Self::Timeout { waited: *waited },
            Self::WouldDeadlock => Self::WouldDeadlock,
            Self::Closed => Self::Closed,
        }
    }
}
