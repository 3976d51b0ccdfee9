//! [`LimiterError`], why a limiter did not lend.

use thiserror::Error;

/// Why a [`CapacityLimiter`](super::CapacityLimiter) did not lend, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LimiterError {
    /// Fewer tokens are free than were asked for, or others wait already, and this caller would not wait.
    #[error("too few tokens are free, or others wait for them: try again later, or wait with acquire()")]
    WouldBlock,
    /// More tokens were asked for than a limiter can ever have: [`CapacityLimiter::MAX_TOTAL`].
    ///
    /// [`CapacityLimiter::MAX_TOTAL`]: super::CapacityLimiter::MAX_TOTAL
    #[error("more tokens than a limiter can have (2^31 - 1): count in larger units")]
    TooMany,
    /// The limiter was closed and lends nothing any more.
    #[error("the limiter is closed and lends nothing any more: stop, or use another one")]
    Closed,
    /// A blocking wait was asked for on a thread that runs async tasks, which it would stall.
    #[error("blocking wait on a thread that runs async tasks: use acquire().await, or spawn_blocking")]
    BlockingInAsync,
}
