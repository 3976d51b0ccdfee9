//! [`LimiterError`], why tokens could not be acquired.

use thiserror::Error;

/// Why tokens of a [`CapacityLimiter`](super::CapacityLimiter) could not be acquired, and what to do about it.
///
/// This is a small `Copy` enum, without details such as [`OffloadError`](crate::OffloadError) has: a refusal takes a
/// few nanoseconds, and callers that retry in a loop rely on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LimiterError {
    /// Too few tokens are free, or other callers are queued, and this caller does not wait.
    #[error("too few tokens are free, or other callers wait for them: try again later, or wait with acquire()")]
    WouldBlock,
    /// The caller requested more tokens than a limiter can ever have: [`CapacityLimiter::MAX_TOTAL`].
    ///
    /// [`CapacityLimiter::MAX_TOTAL`]: super::CapacityLimiter::MAX_TOTAL
    #[error("more tokens than a limiter can have (2^31 - 1): count in larger units")]
    TooMany,
    /// The caller requested more tokens than the limiter has, and does not wait. Another attempt fails until the
    /// [total](super::CapacityLimiter::set_total) has grown. (A limiter whose total is 0 is paused: it returns
    /// [`WouldBlock`](Self::WouldBlock).)
    #[error("more tokens than the limiter's total: request fewer, or raise the total")]
    AboveTotal,
    /// The limiter is closed.
    #[error("the limiter is closed: stop, or use another one")]
    Closed,
    /// The caller would block a thread that runs async tasks.
    #[error("blocking wait on a thread that runs async tasks: use acquire().await, or spawn_blocking")]
    BlockingInAsync,
}
