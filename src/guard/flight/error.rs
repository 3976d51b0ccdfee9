//! [`FlightError`], the reason why a caller of a [`SingleFlight`](super::SingleFlight) gets no value.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// The reason why a caller of a [`SingleFlight`](super::SingleFlight) gets no value.
///
/// [`Failed`](Self::Failed) and [`Panicked`](Self::Panicked) go to all callers of a run. Their clones share one value.
///
/// In axum and actix-web this error is a response: [`Failed`](Self::Failed) responds as the work's error does, if that
/// error is a response (in axum, one that can be cloned). The other variants respond as the [tables of
/// refusals](crate::web) describe. Use [`try_into_failure`](Self::try_into_failure) if the work's error is not a
/// response, or to change the response.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FlightError<E> {
    /// The work returned this error.
    #[error("the shared work failed")]
    Failed(#[source] Arc<E>),
    /// The work panicked. It was not run again.
    #[error("the shared work panicked: {message}")]
    #[non_exhaustive]
    Panicked {
        /// The panic's message.
        message: Arc<str>,
    },
    /// The run already had as many waiters as `max_waiters` allows.
    #[error("too many callers are waiting for this run: try again later, or raise max_waiters")]
    TooManyWaiters,
    /// The run did not end within `wait_timeout`. It continues if other callers wait for it.
    #[error("no result within {waited:?}: try again later, or raise wait_timeout")]
    #[non_exhaustive]
    Timeout {
        /// The time for which this caller waited.
        waited: Duration,
    },
    /// The work asked for its own key, and would have waited for itself.
    #[error("already inside the run of this key: do not ask for the same key again in its work")]
    WouldDeadlock,
}

impl<E> FlightError<E> {
    /// Returns the work's error if this is [`Failed`](Self::Failed).
    #[must_use]
    pub fn failure(&self) -> Option<&E> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the work's error if this is [`Failed`](Self::Failed), or the reason why the work returned no error.
    ///
    /// That reason is a response for any `E`, and converts to a [`Refusal`](crate::web::Refusal):
    ///
    /// ```
    /// use std::io;
    /// use onelane::FlightError;
    /// use onelane::web::Refusal;
    ///
    /// /// The response of the service if there is no page.
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
    /// If this is not [`Failed`](Self::Failed), returns the same variant as the `FlightError` of work that never fails.
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
