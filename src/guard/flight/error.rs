//! [`FlightError`], why a caller of a [`SingleFlight`](super::SingleFlight) has no value.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// Why a caller of a [`SingleFlight`](super::SingleFlight) has no value.
///
/// Those of one run all get the same: clones share it.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FlightError<E> {
    /// The work returned this error, to all its callers.
    #[error("the shared work failed")]
    Failed(#[source] Arc<E>),
    /// The work panicked. It was not run again.
    #[error("the shared work panicked: {message}")]
    #[non_exhaustive]
    Panicked {
        /// The panic's message.
        message: Arc<str>,
    },
    /// As many callers share the run as may.
    #[error("too many callers wait for this already: try again later, or raise max_waiters")]
    TooManyWaiters,
    /// The run did not end within the caller's `wait_timeout`. It goes on if others wait for it.
    #[error("no result within {waited:?}: try again later, or raise wait_timeout")]
    #[non_exhaustive]
    Timeout {
        /// How long this caller waited.
        waited: Duration,
    },
    /// The work asked for the key that it runs for itself: it would wait for itself.
    #[error("already inside the run of this key: don't ask for the same key again in its work")]
    WouldDeadlock,
}

impl<E> FlightError<E> {
    /// The error that the work returned, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&E> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl<E> Clone for FlightError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(Arc::clone(error)),
            Self::Panicked { message } => Self::Panicked { message: Arc::clone(message) },
            Self::TooManyWaiters => Self::TooManyWaiters,
            Self::Timeout { waited } => Self::Timeout { waited: *waited },
            Self::WouldDeadlock => Self::WouldDeadlock,
        }
    }
}
