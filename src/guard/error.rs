//! [`AcquireError`], the reason why a guard refused a caller.

use std::time::Duration;

use thiserror::Error;

use super::retry::RetryEstimate;

/// The reason why a guard refused a caller. The message says what to do about it.
///
/// The web adapters convert the error to a response, as the [table of refusals](crate::web) describes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Every permit is held, and this caller does not wait.
    #[error("every permit is held: try again later, or wait with acquire() on a guard that has a queue")]
    #[non_exhaustive]
    Busy {
        #[doc(hidden)]
        retry: RetryEstimate,
    },
    /// The guard's queue is full.
    #[error("the queue is full: try again later, or let the guard queue more callers")]
    #[non_exhaustive]
    QueueFull {
        #[doc(hidden)]
        retry: RetryEstimate,
    },
    /// The maximum number of keys of a [`KeyedGuard`](super::KeyedGuard) is in use, and this caller asked for another
    /// key.
    #[error("too many keys are in use: try again later, or raise max_keys")]
    #[non_exhaustive]
    TooManyKeys {
        #[doc(hidden)]
        retry: RetryEstimate,
    },
    /// The caller did not get a permit within the guard's `max_wait`.
    #[error("no permit within {waited:?}: try again later, or raise max_wait")]
    #[non_exhaustive]
    Timeout {
        /// The time for which this caller waited.
        waited: Duration,
        #[doc(hidden)]
        retry: RetryEstimate,
    },
    /// A permit was granted, but the future was not polled within the guard's `grant_timeout`, and the permit went to
    /// another caller.
    #[error("the permit was not taken within grant_timeout: poll the future while it waits, or drop it")]
    GrantExpired,
    /// The caller already runs inside this guard, through [`run`] or the web layer around its handler, and every permit
    /// is held: the caller would wait for itself.
    ///
    /// (With several permits, the caller might wait only for the other holders. But the guard cannot know if those
    /// holders wait for it, too, so it refuses.)
    ///
    /// [`run`]: super::EndpointGuard::run
    #[error("already inside this guard, which is full: do not acquire it again in work that it guards")]
    WouldDeadlock,
    /// The guard was closed and admits no more callers.
    #[error("the guard is closed and admits no more callers: try another instance, or later")]
    Closed,
    /// A blocking wait was attempted on a thread that runs async tasks, which it would stall.
    #[error("blocking wait on a thread that runs async tasks: use acquire().await, or spawn_blocking")]
    BlockingInAsync,
}

impl AcquireError {
    /// Returns how long to wait before the next attempt, if it can be estimated:
    /// mean hold × (callers waiting + 1) ÷ permits.
    ///
    /// Returns `None` if waiting does not help, or if the guard has not yet measured how long its permits are held.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry }
            | Self::QueueFull { retry }
            | Self::TooManyKeys { retry }
            | Self::Timeout { retry, .. } => retry.delay(),
            Self::GrantExpired | Self::WouldDeadlock | Self::Closed | Self::BlockingInAsync => None,
        }
    }
}
