//! [`FlightError`], the reason why a caller of a [`SingleFlight`](super::SingleFlight) gets no value.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::run_error::RunError;
use crate::panic::Panic;
use crate::rounded::rounded;

/// The reason why a caller of a [`SingleFlight`](super::SingleFlight) gets no value.
///
/// [`kind`](Self::kind) returns the reason, for code. The `Display` text is for the developer's log: it names the
/// flight and gives advice. A failure and a panic of the work go to all callers of a run; their clones share one value.
///
/// In axum and actix-web this error can be returned as a response: for a failure, it is the response of the work's
/// error, if that error is a response (in axum, one that can be cloned). The other kinds respond as the [tables of
/// refusals](crate::web) describe. Use [`try_into_failure`](Self::try_into_failure) if the work's error is not a
/// response, or to change the response.
///
/// A test of your code can create an error from a kind, with [`from_kind`](Self::from_kind), or from the work's error,
/// with [`failed`](Self::failed).
pub struct FlightError<E> {
    name: Option<&'static str>,
    error: RunError<E>,
    retry_after: Option<Duration>,
}

/// The kind of a [`FlightError`]. The `Display` text gives advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlightErrorKind {
    /// The work returned an error.
    Failed,
    /// The work panicked. It was not run again.
    Panicked,
    /// The run already had as many waiters as `max_waiters` allows.
    TooManyWaiters,
    /// The run did not end within `max_wait`. The run continues if other callers wait for it.
    Timeout,
    /// The work asked for its own key, and would have waited for itself.
    WouldDeadlock,
    /// The flight was closed and admits no more callers.
    Closed,
}

impl<E> FlightError<E> {
    pub(super) fn new(name: &'static str, error: RunError<E>) -> Self {
        Self { name: Some(name), error, retry_after: None }
    }

    /// Creates the error of work that failed with `error`.
    #[must_use]
    pub fn failed(error: E) -> Self {
        Self { name: None, error: RunError::Failed(Arc::new(error)), retry_after: None }
    }

    /// Creates an error of `kind`. A `Panicked` error has an empty panic, and a `Timeout` error a wait of zero.
    ///
    /// # Panics
    ///
    /// Panics if `kind` is [`Failed`](FlightErrorKind::Failed): use [`failed`](Self::failed), which takes the work's
    /// error.
    #[must_use]
    #[track_caller]
    pub fn from_kind(kind: FlightErrorKind) -> Self {
        let error = match kind {
            FlightErrorKind::Failed => panic!("use FlightError::failed, which takes the work's error"),
            FlightErrorKind::Panicked => RunError::Panicked(Panic::without_location("(no message)")),
            FlightErrorKind::TooManyWaiters => RunError::TooManyWaiters,
            FlightErrorKind::Timeout => RunError::Timeout { waited: Duration::ZERO },
            FlightErrorKind::WouldDeadlock => RunError::WouldDeadlock,
            FlightErrorKind::Closed => RunError::Closed,
        };
        Self { name: None, error, retry_after: None }
    }

    /// Returns what happened.
    #[must_use]
    pub fn kind(&self) -> FlightErrorKind {
        match self.error {
            RunError::Failed(_) => FlightErrorKind::Failed,
            RunError::Panicked(_) => FlightErrorKind::Panicked,
            RunError::TooManyWaiters => FlightErrorKind::TooManyWaiters,
            RunError::Timeout { .. } => FlightErrorKind::Timeout,
            RunError::WouldDeadlock => FlightErrorKind::WouldDeadlock,
            RunError::Closed => FlightErrorKind::Closed,
        }
    }

    /// Returns the flight's name, or `None` if the error was not made by a flight.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name
    }

    /// Returns how long the caller waited, if it waited until `max_wait`.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        match self.error {
            RunError::Timeout { waited } => Some(waited),
            _ => None,
        }
    }

    /// Returns how long to wait before the next attempt, or `None` if [`with_retry_after`](Self::with_retry_after) was
    /// not called.
    ///
    /// A flight does not measure how long its runs take, so its own errors have no estimate. A
    /// [`TooManyWaiters`](FlightErrorKind::TooManyWaiters) or a [`Timeout`](FlightErrorKind::Timeout) without an
    /// estimate becomes a refusal that asks for a retry after one second.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Sets how long to wait before the next attempt. A [refusal](crate::web) for too many callers or a timeout sends
    /// that time to the client.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// Returns the panic of the work, if the work panicked. The panic has no payload, because all callers of the run
    /// get the panic.
    #[must_use]
    pub fn panic(&self) -> Option<&Panic> {
        match &self.error {
            RunError::Panicked(panic) => Some(panic),
            _ => None,
        }
    }

    /// Returns the work's error, if it failed.
    #[must_use]
    pub fn failure(&self) -> Option<&E> {
        match &self.error {
            RunError::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the work's error if it failed, or the reason why the work returned no error.
    ///
    /// That reason is a response for any `E`, and converts to a [`Refusal`](crate::web::Refusal):
    ///
    /// ```
    /// use std::io;
    /// use onelane::FlightError;
    /// use onelane::guard::FlightErrorKind;
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
    /// # let refused = PageError::from(FlightError::from_kind(FlightErrorKind::TooManyWaiters));
    /// # assert!(matches!(refused, PageError::Refused(refusal) if refusal.status() == 503));
    /// ```
    ///
    /// # Errors
    ///
    /// If the work did not fail, returns the same error as the `FlightError` of work that never fails.
    pub fn try_into_failure(self) -> Result<Arc<E>, FlightError<Infallible>> {
        let error = match self.error {
            RunError::Failed(error) => return Ok(error),
            RunError::Panicked(panic) => RunError::Panicked(panic),
            RunError::TooManyWaiters => RunError::TooManyWaiters,
            RunError::Timeout { waited } => RunError::Timeout { waited },
            RunError::WouldDeadlock => RunError::WouldDeadlock,
            RunError::Closed => RunError::Closed,
        };
        Err(FlightError { name: self.name, error, retry_after: self.retry_after })
    }
}

impl<E> Clone for FlightError<E> {
    fn clone(&self) -> Self {
        Self { name: self.name, error: self.error.clone(), retry_after: self.retry_after }
    }
}

impl<E: PartialEq> PartialEq for FlightError<E> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.error == other.error && self.retry_after == other.retry_after
    }
}

impl<E: Eq> Eq for FlightError<E> {}

impl<E> PartialEq<FlightErrorKind> for FlightError<E> {
    fn eq(&self, kind: &FlightErrorKind) -> bool {
        self.kind() == *kind
    }
}

impl<E> fmt::Display for FlightError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name {
            write!(f, "flight `{name}`: ")?;
        }
        match &self.error {
            RunError::Panicked(panic) => write!(f, "the shared work panicked: {panic}"),
            RunError::Timeout { waited } => {
                write!(f, "no result within {:?}: try again later, or raise max_wait", rounded(*waited))
            }
            _ => self.kind().fmt(f),
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for FlightError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("FlightError");
        debug.field("name", &self.name).field("error", &self.error);
        if let Some(retry_after) = &self.retry_after {
            debug.field("retry_after", retry_after);
        }
        debug.finish()
    }
}

impl<E: Error + 'static> Error for FlightError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failure().map(|error| error as _)
    }
}

impl fmt::Display for FlightErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "the shared work failed",
            Self::Panicked => "the shared work panicked",
            Self::TooManyWaiters => "too many callers are waiting for this run: try again later, or raise max_waiters",
            Self::Timeout => "no result in time: try again later, or raise max_wait",
            Self::Closed => "the flight is closed and admits no more callers: try another instance, or later",
            Self::WouldDeadlock => "already inside the run of this key: do not ask for the same key again in its work",
        })
    }
}
