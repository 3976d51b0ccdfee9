//! [`CapacityLimiter`], a limit on how much runs at once.

use std::sync::Arc;

use super::acquire::{AcquireTokens, AcquireTokensOwned, TokenAcquisition};
use super::blocking;
use super::error::LimiterError;
use super::permit::{HeldTokens, LimiterPermit, OwnedLimiterPermit};
use super::semaphores::{LimiterSemaphores, TokenRequest};
use crate::debug::impl_debug;
use crate::semaphore::{MAX_TOKENS, TokenSemaphore};
use crate::shared::{Shareable, Shared};
use crate::sync::const_unless_loom;

/// Limits how much runs at once, with a number of tokens that tasks and threads acquire first in, first out. The number
/// can change while the limiter is in use.
///
/// It is what [anyio's `CapacityLimiter`][anyio] is to FastAPI, with permits that release themselves instead of
/// borrowers that must. It differs from `tokio::sync::Semaphore` in its adjustable total, its reserve, its statistics
/// and its blocking wait.
///
/// - The order is strict. While a caller is queued, every new caller waits behind it: a caller that wants one token
///   does not overtake one that wants ten. So tokens may stay free until there are enough for the first caller in the
///   queue.
/// - [`set_total`](Self::set_total) never takes tokens away from their holders. After the total was reduced below the
///   number of tokens held, [`available`](super::LimiterStatistics::available) is negative, and no token can be
///   acquired until it is positive again. A total of 0 is a pause.
/// - Acquiring free tokens and releasing them is one atomic exchange each, and allocates no memory.
///
/// [anyio]: https://anyio.readthedocs.io/en/stable/api.html#anyio.CapacityLimiter
///
/// # Common mistakes
///
/// A caller that holds a token and waits for a second one of the same limiter may wait for itself. It should acquire
/// both at once, with [`acquire_many`](Self::acquire_many), or, for clean-up, acquire one of the
/// [reserve](Self::with_reserve).
///
/// A future that was granted its tokens holds them until it is polled or dropped.
///
/// # Examples
///
/// ```
/// use onelane::CapacityLimiter;
/// use onelane::offload::LimiterError;
///
/// static EXPORTS: CapacityLimiter = CapacityLimiter::new(2);
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), LimiterError> {
/// let first = EXPORTS.acquire().await?;
/// let second = EXPORTS.acquire().await?;
/// assert_eq!(EXPORTS.try_acquire().unwrap_err(), LimiterError::WouldBlock);
///
/// EXPORTS.set_total(1); // takes nothing away
/// assert_eq!(EXPORTS.statistics().available, -1);
/// drop((first, second));
/// assert_eq!(EXPORTS.statistics().available, 1);
/// # Ok(())
/// # }
/// ```
pub struct CapacityLimiter {
    pub(super) semaphores: LimiterSemaphores,
}

/// A [`CapacityLimiter`] that outlives its users.
pub type SharedLimiter = Shared<CapacityLimiter>;

impl Shareable for CapacityLimiter {}

impl CapacityLimiter {
    /// The largest total, and the most tokens that one caller can request: 2³¹ − 1. To limit something larger, such as
    /// bytes, count in larger units, such as kilobytes.
    pub const MAX_TOTAL: usize = MAX_TOKENS;

    const_unless_loom! {
        /// Creates a limiter of `total` tokens. 0 is a pause: every caller waits until [`set_total`](Self::set_total) ends
        /// it.
        ///
        /// A total above [`MAX_TOTAL`](Self::MAX_TOTAL) is reduced to it.
        #[must_use]
        pub fn new(total: usize) -> Self {
            Self::with_reserve(total, 0)
        }
    }

    const_unless_loom! {
        /// Creates a limiter of [`MAX_TOTAL`](Self::MAX_TOTAL) tokens: to count now, and to limit later.
        #[must_use]
        pub fn unlimited() -> Self {
            Self::new(Self::MAX_TOTAL)
        }
    }

    const_unless_loom! {
        /// Creates a limiter of `total` tokens, with a reserve of `reserve` more that only
        /// [`acquire_reserved`](Self::acquire_reserved) and its variants acquire.
        ///
        /// The reserve is for work that must end so that other work can start. Clean-up that is queued behind new work,
        /// which in turn waits for what is to be cleaned up, is a deadlock ([fastapi#3205]). Use the reserve only for work
        /// that does not itself wait for the holder of a token.
        ///
        /// The reserve never changes, and a pause does not affect it. Numbers above [`MAX_TOTAL`](Self::MAX_TOTAL) are
        /// reduced to it.
        ///
        /// [fastapi#3205]: https://github.com/fastapi/fastapi/issues/3205
        ///
        /// # Examples
        ///
        /// ```
        /// # use onelane::CapacityLimiter;
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), onelane::offload::LimiterError> {
        /// let limiter = CapacityLimiter::with_reserve(1, 1);
        /// let _session = limiter.acquire().await?;
        /// assert!(limiter.try_acquire().is_err());
        /// let _clean_up = limiter.acquire_reserved().await?;
        /// # Ok(())
        /// # }
        /// ```
        #[must_use]
        pub fn with_reserve(total: usize, reserve: usize) -> Self {
            Self { semaphores: LimiterSemaphores::new(total, reserve) }
        }
    }

    /// Waits for one token.
    ///
    /// The caller enters the queue with the first poll.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue. A token that was granted already goes to the next caller; none is lost.
    ///
    /// # Errors
    ///
    /// [`LimiterError::Closed`] if the limiter is closed, before or during the wait.
    pub fn acquire(&self) -> AcquireTokens<'_> {
        TokenAcquisition::new(self, TokenRequest::ONE)
    }

    /// Waits for `tokens` tokens, all at once.
    ///
    /// If that is more than the total, the caller waits until the total has grown, and all callers behind it wait too.
    /// Zero tokens are acquired at once, even if other callers are queued.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire). When the first caller leaves the queue, the callers behind it get the tokens that
    /// were too few for it.
    ///
    /// # Errors
    ///
    /// [`LimiterError::Closed`] as with `acquire`, and [`LimiterError::TooMany`] for more than
    /// [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn acquire_many(&self, tokens: usize) -> AcquireTokens<'_> {
        TokenAcquisition::new(self, TokenRequest::many(tokens))
    }

    /// Waits for one token, as [`acquire`](Self::acquire), that may outlive the caller.
    ///
    /// # Cancel safety
    ///
    /// As `acquire`.
    ///
    /// # Errors
    ///
    /// As `acquire`.
    pub fn acquire_owned(self: Arc<Self>) -> AcquireTokensOwned {
        SharedLimiter::from(self).acquire_owned()
    }

    /// Waits for `tokens` tokens, as [`acquire_many`](Self::acquire_many), that may outlive the caller.
    ///
    /// # Cancel safety
    ///
    /// As `acquire_many`.
    ///
    /// # Errors
    ///
    /// As `acquire_many`.
    pub fn acquire_many_owned(self: Arc<Self>, tokens: usize) -> AcquireTokensOwned {
        SharedLimiter::from(self).acquire_many_owned(tokens)
    }

    /// Waits for one token, from the [reserve](Self::with_reserve) if no other is free.
    ///
    /// Acquires an ordinary token if one is free and no caller is queued for it, and a token of the reserve otherwise.
    /// If the reserve has none either, the caller waits for the reserve, first in, first out. Without a reserve this is
    /// the same as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As `acquire`.
    ///
    /// # Errors
    ///
    /// As `acquire`.
    pub fn acquire_reserved(&self) -> AcquireTokens<'_> {
        TokenAcquisition::new(self, TokenRequest::Reserved)
    }

    /// Waits for one token, as [`acquire_reserved`](Self::acquire_reserved), that may outlive the caller.
    ///
    /// # Cancel safety
    ///
    /// As `acquire`.
    ///
    /// # Errors
    ///
    /// As `acquire`.
    pub fn acquire_reserved_owned(self: Arc<Self>) -> AcquireTokensOwned {
        SharedLimiter::from(self).acquire_reserved_owned()
    }

    /// Acquires one token if one is free and no caller is queued.
    ///
    /// # Errors
    ///
    /// [`LimiterError::WouldBlock`] if not, and [`LimiterError::Closed`].
    #[inline]
    pub fn try_acquire(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_acquire_request(TokenRequest::ONE)
    }

    /// Acquires `tokens` tokens if that many are free and no caller is queued. Zero tokens are acquired even if callers
    /// are queued.
    ///
    /// # Errors
    ///
    /// [`LimiterError::WouldBlock`] if not, [`LimiterError::Closed`], and [`LimiterError::TooMany`] for more than
    /// [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn try_acquire_many(&self, tokens: usize) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_acquire_request(TokenRequest::many(tokens))
    }

    /// Acquires one token, as [`try_acquire`](Self::try_acquire), that may outlive the caller.
    ///
    /// # Errors
    ///
    /// As `try_acquire`.
    pub fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedLimiterPermit, LimiterError> {
        SharedLimiter::from(self).try_acquire_owned()
    }

    /// Acquires `tokens` tokens, as [`try_acquire_many`](Self::try_acquire_many), that may outlive the caller.
    ///
    /// # Errors
    ///
    /// As `try_acquire_many`.
    pub fn try_acquire_many_owned(self: Arc<Self>, tokens: usize) -> Result<OwnedLimiterPermit, LimiterError> {
        SharedLimiter::from(self).try_acquire_many_owned(tokens)
    }

    /// Acquires one token, from the [reserve](Self::with_reserve) if no other is free.
    ///
    /// # Errors
    ///
    /// [`LimiterError::WouldBlock`] if the reserve has none either, and [`LimiterError::Closed`].
    pub fn try_acquire_reserved(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_acquire_request(TokenRequest::Reserved)
    }

    /// Blocks this thread until it has acquired one token, in the same queue as the futures.
    ///
    /// For plain threads, `spawn_blocking` and `block_in_place`.
    ///
    /// # Errors
    ///
    /// [`LimiterError::Closed`] as with [`acquire`](Self::acquire), and [`LimiterError::BlockingInAsync`] on a thread
    /// that runs async tasks, even if a token is free. A task inside `tokio::task::unconstrained` can't be distinguished
    /// from a thread that may block.
    pub fn acquire_blocking(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, TokenRequest::ONE)
    }

    /// Blocks this thread until it has acquired `tokens` tokens, as [`acquire_blocking`](Self::acquire_blocking).
    ///
    /// # Errors
    ///
    /// As `acquire_blocking`, and [`LimiterError::TooMany`] for more than [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn acquire_many_blocking(&self, tokens: usize) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, TokenRequest::many(tokens))
    }

    /// Blocks this thread until it has acquired one token, from the reserve if no other is free, as
    /// [`acquire_reserved`](Self::acquire_reserved).
    ///
    /// # Errors
    ///
    /// As [`acquire_blocking`](Self::acquire_blocking).
    pub fn acquire_reserved_blocking(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, TokenRequest::Reserved)
    }

    /// Changes the number of tokens, without the reserve.
    ///
    /// New tokens go to the callers in the queue, in their order. If the total shrinks, no holder loses a token:
    /// released tokens first make up for those that are [missing](super::LimiterStatistics::available). 0 is a pause. A
    /// total above [`MAX_TOTAL`](Self::MAX_TOTAL) is reduced to it.
    pub fn set_total(&self, total: usize) {
        self.semaphores.set_total(total);
    }

    /// Returns the number of tokens, without the reserve.
    #[must_use]
    pub fn total(&self) -> usize {
        self.semaphores.ordinary().total()
    }

    /// Closes the limiter and its reserve: queued and future callers fail with [`LimiterError::Closed`]. Holders keep
    /// their tokens.
    pub fn close(&self) {
        self.semaphores.close();
    }

    /// Returns `true` if the limiter was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.semaphores.ordinary().is_closed()
    }

    /// Returns the ordinary tokens, for a pool that waits for them without futures and permits.
    pub(crate) fn semaphore(&self) -> &TokenSemaphore {
        self.semaphores.ordinary()
    }

    #[inline]
    fn try_acquire_request(&self, request: TokenRequest) -> Result<LimiterPermit<'_>, LimiterError> {
        self.semaphores.try_acquire(request).map(|tokens| HeldTokens { limiter: self, tokens })
    }
}

impl_debug!(CapacityLimiter |this| { statistics: this.statistics(), .. });
