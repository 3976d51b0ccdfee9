//! [`AcquireError`], why a guard did not let a caller in.

use std::time::Duration;

use thiserror::Error;

use super::retry::RetryEstimate;

/// Why a guard did not let a caller in, and what to do about it.
///
/// The web adapters turn it into a response, as the [table of refusals](crate::web) says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Every permit is held, and this caller would not wait.
    #[error("every permit is held: try again later, or wait with acquire() on a guard that has a queue")]
    #[non_exhaustive]
    Busy {
        /// When a permit may come free.
        retry: RetryEstimate,
    },
    /// As many callers wait as the guard's queue may hold.
    #[error("the queue is full: try again later, or let the guard queue more callers")]
    #[non_exhaustive]
    QueueFull {
        /// When the callers that wait now may all have been served.
        retry: RetryEstimate,
    },
    /// Callers hold or wait for as many keys as a [`KeyedGuard`](super::KeyedGuard) may have at once, and this one
    /// asked for another.
    #[error("too many keys are in use: try again later, or raise max_keys")]
    #[non_exhaustive]
    TooManyKeys {
        /// When a key may come free.
        retry: RetryEstimate,
    },
    /// The turn did not come within the guard's `max_wait`.
    #[error("no turn within {waited:?}: try again later, or raise max_wait")]
    #[non_exhaustive]
    Timeout {
        /// How long this caller waited.
        waited: Duration,
        /// When the callers that wait now may all have been served.
        retry: RetryEstimate,
    },
    /// The turn came, but the future was not polled within the guard's `grant_timeout`, and the turn went to another.
    #[error("the turn was not taken within grant_timeout: poll the future while it waits, or drop it")]
    GrantExpired,
    /// The caller already holds this guard, through [`run`] or the web layer around its handler, and every permit is
    /// held: it would wait for itself. (With several permits, perhaps only for the others; that it is the last one to
    /// wait can't be told, so it may not.)
    ///
    /// [`run`]: super::EndpointGuard::run
    #[error("already inside this guard, which is full: don't acquire it again in work that it guards")]
    WouldDeadlock,
    /// The guard was closed and lets nobody in any more.
    #[error("the guard is closed and admits nobody any more: try another instance, or later")]
    Closed,
    /// A blocking wait was asked for on a thread that runs async tasks, which it would stall.
    #[error("blocking wait on a thread that runs async tasks: use acquire().await, or spawn_blocking")]
    BlockingInAsync,
}

impl AcquireError {
    /// How long to wait before the next try, where that can be told: mean hold × (callers waiting + 1) ÷ permits.
    ///
    /// `None` if waiting doesn't help, or if the guard has not yet seen how long its permits are held.
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
