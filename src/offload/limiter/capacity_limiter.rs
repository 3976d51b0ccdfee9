//! [`CapacityLimiter`], a limit on how much runs at the same time.

use std::sync::Arc;

use tokio::sync::Notify;

use super::acquire::{AcquireTokens, AcquireTokensOwned, TokenAcquisition};
use super::blocking;
use super::error::LimiterError;
use super::permit::{HeldTokens, LimiterPermit, OwnedLimiterPermit};
use super::semaphores::{LimiterSemaphores, TokenRequest};
use crate::config_error::{ConfigError, Problem};
use crate::debug::impl_debug;
use crate::semaphore::{MAX_TOKENS, TokenSemaphore};
use crate::shared::{Shareable, Shared};
use crate::sync::{Mutex, const_unless_loom};

/// Limits how much runs at the same time. Tasks and threads acquire tokens in FIFO order, and the number of tokens can
/// change while the limiter is in use.
///
/// The limiter corresponds to [anyio's `CapacityLimiter`][anyio], which FastAPI uses. A permit releases its tokens when
/// it is dropped, while a borrower in anyio must release them. The limiter differs from `tokio::sync::Semaphore` in its
/// adjustable total, its reserve, its statistics and its blocking wait.
///
/// - The order is strict. While a caller is queued, every new caller waits behind it: a caller that wants one token
///   does not overtake one that wants ten. So tokens may stay free until there are enough for the first caller in the
///   queue.
/// - [`set_total`](Self::set_total) never takes tokens away from their holders. After the total is reduced below the
///   number of tokens held, [`available`](super::LimiterStats::available) is negative, and no token can be
///   acquired until it is positive again. A total of 0 pauses the limiter.
/// - Acquiring free tokens takes one atomic exchange, and releasing them takes another. Neither allocates memory.
///
/// [anyio]: https://anyio.readthedocs.io/en/stable/api.html#anyio.CapacityLimiter
///
/// # Common mistakes
///
/// A caller that holds a token and waits for a second one of the same limiter may wait for itself. The caller should
/// acquire both tokens together, with [`acquire_many`](Self::acquire_many). For clean-up, the caller should acquire a
/// token of the [reserve](Self::with_reserve).
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
/// assert_eq!(EXPORTS.stats().available, -1);
/// drop((first, second));
/// assert_eq!(EXPORTS.stats().available, 1);
/// # Ok(())
/// # }
/// ```
pub struct CapacityLimiter {
    pub(super) semaphores: LimiterSemaphores,
    /// How many free tokens are promised to queued tasks of pools. Locked before the mutex of a semaphore.
    pub(super) promised: Mutex<usize>,
    /// Notified when the closed limiter is drained.
    pub(super) drained: Notify,
}

/// A [`CapacityLimiter`] that outlives its users.
pub type SharedLimiter = Shared<CapacityLimiter>;

impl Shareable for CapacityLimiter {}

impl CapacityLimiter {
    /// The largest total, and the most tokens that one caller can request: 2³¹ − 1. To limit something larger, such as
    /// bytes, count in larger units, such as kilobytes.
    pub const MAX_TOTAL: usize = MAX_TOKENS;

    const_unless_loom! {
        /// Creates a limiter of `total` tokens. With 0 tokens the limiter is paused: every caller waits until
        /// [`set_total`](Self::set_total) raises the total.
        ///
        /// # Panics
        ///
        /// Panics if `total` is above [`MAX_TOTAL`](Self::MAX_TOTAL). In a `const` or `static` this is a compile error:
        ///
        /// ```compile_fail,E0080
        /// # use onelane::CapacityLimiter;
        /// static TOO_MANY: CapacityLimiter = CapacityLimiter::new(1 << 31);
        /// ```
        ///
        /// [`try_with_reserve`](Self::try_with_reserve) returns an error instead.
        #[must_use]
        #[track_caller]
        pub fn new(total: usize) -> Self {
            Self::with_reserve(total, 0)
        }
    }

    const_unless_loom! {
        /// Creates a limiter of [`MAX_TOTAL`](Self::MAX_TOTAL) tokens, which counts now and can limit later.
        #[must_use]
        pub fn unlimited() -> Self {
            Self::new(Self::MAX_TOTAL)
        }
    }

    const_unless_loom! {
        /// Creates a limiter of `total` tokens, with a reserve of `reserve` more that only
        /// [`acquire_reserved`](Self::acquire_reserved) and its variants acquire.
        ///
        /// The reserve is for work that must end so that other work can start. If clean-up is queued behind new work,
        /// and the new work waits for the clean-up, both are deadlocked ([fastapi#3205]). Use the reserve only for work
        /// that does not itself wait for the holder of a token.
        ///
        /// The reserve never grows, and a pause does not affect it. The reserve shrinks only if a permit with its token
        /// is [forgotten](HeldTokens::forget).
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
        ///
        /// # Panics
        ///
        /// Panics if `total` or `reserve` is above [`MAX_TOTAL`](Self::MAX_TOTAL). In a `const` or `static` this is a
        /// compile error.
        #[must_use]
        #[track_caller]
        pub fn with_reserve(total: usize, reserve: usize) -> Self {
            match check_numbers(total, reserve) {
                Ok(()) => Self::from_numbers(total, reserve),
                Err((_, problem)) => panic!("{}", problem),
            }
        }
    }

    const_unless_loom! {
        /// Creates a limiter, like [`with_reserve`](Self::with_reserve), from numbers that may be out of range, such as
        /// those of a configuration file.
        ///
        /// # Errors
        ///
        /// Returns an error with the setting `"total"` or `"reserve"` if that number is above
        /// [`MAX_TOTAL`](Self::MAX_TOTAL).
        pub fn try_with_reserve(total: usize, reserve: usize) -> Result<Self, ConfigError> {
            match check_numbers(total, reserve) {
                Ok(()) => Ok(Self::from_numbers(total, reserve)),
                Err(problem) => Err(ConfigError::new(KIND, "", problem)),
            }
        }
    }

    const_unless_loom! {
        fn from_numbers(total: usize, reserve: usize) -> Self {
            let semaphores = LimiterSemaphores::new(total, reserve);
            Self { semaphores, promised: Mutex::new(0), drained: Notify::const_new() }
        }
    }

    /// Waits for one token.
    ///
    /// The caller enters the queue when the future is first polled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes the caller from the queue. A token that was already granted goes to the next caller,
    /// so no token is lost.
    ///
    /// # Errors
    ///
    /// Returns [`LimiterError::Closed`] if the limiter is closed, before or during the wait.
    pub fn acquire(&self) -> AcquireTokens<'_> {
        TokenAcquisition::new(self, TokenRequest::ONE)
    }

    /// Waits for `tokens` tokens, and acquires all of them together.
    ///
    /// If `tokens` exceeds the total, the caller waits until the total has grown, and all callers behind it wait too.
    /// Zero tokens are acquired immediately, even if other callers are queued.
    ///
    /// # Cancel safety
    ///
    /// The same as [`acquire`](Self::acquire). When the first caller leaves the queue, the callers behind it can
    /// acquire the tokens that were too few for the first caller.
    ///
    /// # Errors
    ///
    /// Returns [`LimiterError::Closed`] like `acquire`, and [`LimiterError::TooMany`] for more than
    /// [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn acquire_many(&self, tokens: usize) -> AcquireTokens<'_> {
        TokenAcquisition::new(self, TokenRequest::many(tokens))
    }

    /// Waits for one token, like [`acquire`](Self::acquire). The permit may outlive the caller.
    ///
    /// # Cancel safety
    ///
    /// The same as `acquire`.
    ///
    /// # Errors
    ///
    /// The same as `acquire`.
    pub fn acquire_owned(self: Arc<Self>) -> AcquireTokensOwned {
        SharedLimiter::from(self).acquire_owned()
    }

    /// Waits for `tokens` tokens, like [`acquire_many`](Self::acquire_many). The permit may outlive the caller.
    ///
    /// # Cancel safety
    ///
    /// The same as `acquire_many`.
    ///
    /// # Errors
    ///
    /// The same as `acquire_many`.
    pub fn acquire_many_owned(self: Arc<Self>, tokens: usize) -> AcquireTokensOwned {
        SharedLimiter::from(self).acquire_many_owned(tokens)
    }

    /// Waits for one token, from the [reserve](Self::with_reserve) if no other is free.
    ///
    /// Acquires an ordinary token if one is free and no caller is queued for it, and a token of the reserve otherwise.
    /// If the reserve is empty too, the caller waits for a token of the reserve, in FIFO order. Without a reserve, this
    /// method does the same as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// The same as `acquire`.
    ///
    /// # Errors
    ///
    /// The same as `acquire`.
    pub fn acquire_reserved(&self) -> AcquireTokens<'_> {
        TokenAcquisition::new(self, TokenRequest::Reserved)
    }

    /// Waits for one token, like [`acquire_reserved`](Self::acquire_reserved). The permit may outlive the caller.
    ///
    /// # Cancel safety
    ///
    /// The same as `acquire`.
    ///
    /// # Errors
    ///
    /// The same as `acquire`.
    pub fn acquire_reserved_owned(self: Arc<Self>) -> AcquireTokensOwned {
        SharedLimiter::from(self).acquire_reserved_owned()
    }

    /// Acquires one token if one is free and no caller is queued.
    ///
    /// # Errors
    ///
    /// Returns [`LimiterError::WouldBlock`] if no token is free or a caller is queued, and [`LimiterError::Closed`] if
    /// the limiter is closed.
    #[inline]
    pub fn try_acquire(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_acquire_request(TokenRequest::ONE)
    }

    /// Acquires `tokens` tokens if that many are free and no caller is queued. Zero tokens are acquired even if callers
    /// are queued.
    ///
    /// # Errors
    ///
    /// Returns [`LimiterError::WouldBlock`] if too few tokens are free or a caller is queued, [`LimiterError::Closed`]
    /// if the limiter is closed, [`LimiterError::AboveTotal`] for more tokens than the limiter has, which another
    /// attempt cannot change, and [`LimiterError::TooMany`] for more than [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn try_acquire_many(&self, tokens: usize) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_acquire_request(TokenRequest::many(tokens))
    }

    /// Acquires one token, like [`try_acquire`](Self::try_acquire). The permit may outlive the caller.
    ///
    /// # Errors
    ///
    /// The same as `try_acquire`.
    pub fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedLimiterPermit, LimiterError> {
        SharedLimiter::from(self).try_acquire_owned()
    }

    /// Acquires `tokens` tokens, like [`try_acquire_many`](Self::try_acquire_many). The permit may outlive the caller.
    ///
    /// # Errors
    ///
    /// The same as `try_acquire_many`.
    pub fn try_acquire_many_owned(self: Arc<Self>, tokens: usize) -> Result<OwnedLimiterPermit, LimiterError> {
        SharedLimiter::from(self).try_acquire_many_owned(tokens)
    }

    /// Acquires one token, from the [reserve](Self::with_reserve) if no other is free.
    ///
    /// # Errors
    ///
    /// Returns [`LimiterError::WouldBlock`] if the reserve is empty too, and [`LimiterError::Closed`] if the limiter is
    /// closed.
    pub fn try_acquire_reserved(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_acquire_request(TokenRequest::Reserved)
    }

    /// Acquires one token, like [`try_acquire_reserved`](Self::try_acquire_reserved). The permit may outlive the
    /// caller.
    ///
    /// # Errors
    ///
    /// The same as `try_acquire_reserved`.
    pub fn try_acquire_reserved_owned(self: Arc<Self>) -> Result<OwnedLimiterPermit, LimiterError> {
        SharedLimiter::from(self).try_acquire_reserved_owned()
    }

    /// Blocks this thread until it has acquired one token, in the same queue as the futures.
    ///
    /// Use this method on plain threads, in `spawn_blocking` and in `block_in_place`.
    ///
    /// # Errors
    ///
    /// Returns [`LimiterError::Closed`] like [`acquire`](Self::acquire), and [`LimiterError::BlockingInAsync`] on a
    /// thread that runs async tasks, even if a token is free. A task inside `tokio::task::unconstrained` can't be
    /// distinguished from a thread that may block.
    pub fn acquire_blocking(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, TokenRequest::ONE)
    }

    /// Blocks this thread until it has acquired `tokens` tokens, like [`acquire_blocking`](Self::acquire_blocking).
    ///
    /// # Errors
    ///
    /// Returns the errors of `acquire_blocking`, and [`LimiterError::TooMany`] for more than
    /// [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn acquire_many_blocking(&self, tokens: usize) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, TokenRequest::many(tokens))
    }

    /// Blocks this thread until it has acquired one token, from the reserve if no other is free, like
    /// [`acquire_reserved`](Self::acquire_reserved).
    ///
    /// # Errors
    ///
    /// The same as [`acquire_blocking`](Self::acquire_blocking).
    pub fn acquire_reserved_blocking(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, TokenRequest::Reserved)
    }

    /// Blocks this thread until it has acquired one token, like [`acquire_blocking`](Self::acquire_blocking). The
    /// permit may outlive the caller.
    ///
    /// # Errors
    ///
    /// The same as `acquire_blocking`.
    pub fn acquire_owned_blocking(self: Arc<Self>) -> Result<OwnedLimiterPermit, LimiterError> {
        SharedLimiter::from(self).acquire_owned_blocking()
    }

    /// Blocks this thread until it has acquired `tokens` tokens, like
    /// [`acquire_many_blocking`](Self::acquire_many_blocking). The permit may outlive the caller.
    ///
    /// # Errors
    ///
    /// The same as `acquire_many_blocking`.
    pub fn acquire_many_owned_blocking(self: Arc<Self>, tokens: usize) -> Result<OwnedLimiterPermit, LimiterError> {
        SharedLimiter::from(self).acquire_many_owned_blocking(tokens)
    }

    /// Blocks this thread until it has acquired one token, like
    /// [`acquire_reserved_blocking`](Self::acquire_reserved_blocking). The permit may outlive the caller.
    ///
    /// # Errors
    ///
    /// The same as `acquire_blocking`.
    pub fn acquire_reserved_owned_blocking(self: Arc<Self>) -> Result<OwnedLimiterPermit, LimiterError> {
        SharedLimiter::from(self).acquire_reserved_owned_blocking()
    }

    /// Returns the semaphore of the ordinary tokens, for a pool that waits for tokens without futures and permits.
    pub(crate) fn semaphore(&self) -> &TokenSemaphore {
        self.semaphores.ordinary()
    }

    #[inline]
    fn try_acquire_request(&self, request: TokenRequest) -> Result<LimiterPermit<'_>, LimiterError> {
        self.semaphores.try_acquire(request).map(|tokens| HeldTokens { limiter: self, tokens })
    }
}

/// What a [`ConfigError`] calls a limiter.
pub(super) const KIND: &str = "limiter";

/// Checks a number of tokens.
pub(super) const fn check_total(total: usize) -> Result<(), Problem> {
    if total > MAX_TOKENS {
        let problem = "a total must be at most 2,147,483,647 (CapacityLimiter::MAX_TOTAL): count in larger units";
        return Err(("total", problem));
    }
    Ok(())
}

const fn check_numbers(total: usize, reserve: usize) -> Result<(), Problem> {
    if reserve > MAX_TOKENS {
        let problem = "a reserve must be at most 2,147,483,647 (CapacityLimiter::MAX_TOTAL): count in larger units";
        return Err(("reserve", problem));
    }
    check_total(total)
}

impl_debug!(CapacityLimiter |this| {
    total: this.total(), borrowed: this.stats().borrowed, waiting: this.stats().waiting,
    reserve: this.stats().reserve, closed: this.is_closed()
});
