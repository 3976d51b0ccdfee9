//! [`FlightError`], why a caller of a [`SingleFlight`](super::SingleFlight) has no value.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// Why a caller of a [`SingleFlight`](super::SingleFlight) has no value.
///
/// Those of one run all get the same: clones share it.
///
/// In axum and actix-web it is a response of its own: [`Failed`](Self::Failed) answers as the work's error does, if that
/// is a response (in axum, one that can be cloned), and the rest as the [table of refusals](crate::web) says. For an error
/// that is none, or to change the answer, take the two apart with [`try_into_failure`](Self::try_into_failure).
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

    /// Takes out the error that the work returned, or returns why it did not come to that.
    ///
    /// What it returns then is a response whatever `E` is, and becomes a [`Refusal`](crate::web::Refusal):
    ///
    /// ```
    /// use std::io;
    /// use onelane::FlightError;
    /// use onelane::web::Refusal;
    ///
    /// /// What the service answers instead of a page.
    /// enum PageError {
    ///     Unreadable(io::ErrorKind),
    ///     Refused(Refusal),
    /// }
    ///
    /// impl From<FlightError<io::Error>> for PageError {
    ///     fn from(error: FlightError<io::Error>) -> Self {
    ///         match error.try_into_failure() {
    ///             Ok(error) => Self::Unreadable(error.kind()),
    ///             Err(error) => Self::Refused(error.into()),
    ///         }
    ///     }
    /// }
    /// # let refused = PageError::from(FlightError::TooManyWaiters);
    /// # assert!(matches!(refused, PageError::Refused(refusal) if refusal.status() == 503));
    /// ```
    ///
    /// # Errors
    ///
    /// The same error, as one of work that never fails, if it is not [`Failed`](Self::Failed).
    pub fn try_into_failure(self) -> Result<Arc<E>, FlightError<Infallible>> {
        match self {
            Self::Failed(error) => Ok(error),
            Self::Panicked { message } => Err(FlightError::Panicked { message }),
            Self::TooManyWaiters => Err(FlightError::TooManyWaiters),
            Self::Timeout { waited } => Err(FlightError::Timeout { waited }),
            Self::WouldDeadlock => Err(FlightError::WouldDeadlock),
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
