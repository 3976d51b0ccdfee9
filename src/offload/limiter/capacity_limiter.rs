//! [`CapacityLimiter`], how much goes on at once.

use std::fmt;
use std::sync::Arc;

use super::acquire::{AcquireTokens, AcquireTokensOwned};
use super::blocking;
use super::error::LimiterError;
use super::permit::{Held, LimiterPermit, OwnedLimiterPermit};
use super::semaphores::{Ask, LimiterSemaphores};
use crate::semaphore::{MAX_TOKENS, TokenSemaphore};

/// Lends tokens, so many at a time, to tasks and threads in the order they asked. How many there are can change while
/// it is in use.
///
/// What [anyio's `CapacityLimiter`][anyio] is to FastAPI, with permits that give themselves back instead of borrowers
/// that must. It differs from `tokio::sync::Semaphore` in its adjustable total, its reserve, its statistics and its blocking
/// wait.
///
/// - The order is strict. While anybody waits, whoever comes waits behind: a caller that wants one token doesn't overtake
///   one that wants ten. So tokens may lie free until there are enough for whoever is first.
/// - [`set_total`](Self::set_total) never takes tokens away from those who have them. After a total has shrunk below what
///   is lent, [`available`](super::LimiterStatistics::available) is negative, and nothing is lent until it is positive again.
///   A total of 0 is a pause.
/// - Taking and giving back what is free is one atomic exchange each, and takes no memory.
///
/// [anyio]: https://anyio.readthedocs.io/en/stable/api.html#anyio.CapacityLimiter
///
/// # Common mistakes
///
/// A caller that holds a token and waits for a second one of the same limiter may wait for itself: ask for both at once,
/// with [`acquire_many`](Self::acquire_many), or, if it is for clean-up, for one of the [reserve](Self::with_reserve).
///
/// A future whose turn has come holds its tokens until it is polled or dropped.
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

impl CapacityLimiter {
    /// The largest total and the most tokens that one caller can ask for: 2³¹ − 1. To limit something larger, such as
    /// bytes, count in larger units, such as kilobytes.
    pub const MAX_TOTAL: usize = MAX_TOKENS;

    /// A limiter of `total` tokens. 0 is a pause: everybody waits until [`set_total`](Self::set_total) ends it.
    ///
    /// More than [`MAX_TOTAL`](Self::MAX_TOTAL) is taken for that.
    #[must_use]
    pub const fn new(total: usize) -> Self {
        Self::with_reserve(total, 0)
    }

    /// A limiter that lends whatever is asked for, up to [`MAX_TOTAL`](Self::MAX_TOTAL) tokens at a time: to count, and to
    /// limit later.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::new(Self::MAX_TOTAL)
    }

    /// A limiter of `total` tokens, and of `reserve` more that only [`acquire_reserved`](Self::acquire_reserved) and its
    /// relatives lend.
    ///
    /// It is for what must end so that others can begin: clean-up that waits behind new work which waits for what is to be
    /// cleaned up is a deadlock ([fastapi#3205]). So use the reserve for work that itself waits for nobody who holds a token.
    ///
    /// The reserve never changes, and a pause doesn't touch it. More than [`MAX_TOTAL`](Self::MAX_TOTAL) is taken for that.
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
    pub const fn with_reserve(total: usize, reserve: usize) -> Self {
        Self { semaphores: LimiterSemaphores::new(total, reserve) }
    }

    /// Waits for one token.
    ///
    /// The place in the queue comes with the first poll.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue, and passes on the token if it had come already. No token is lost
    /// for the others.
    ///
    /// # Errors
    ///
    /// [`LimiterError::Closed`] if the limiter is closed, before or meanwhile.
    pub fn acquire(&self) -> AcquireTokens<'_> {
        AcquireTokens::new(self, Ask::ONE)
    }

    /// Waits for `tokens` tokens, all at once.
    ///
    /// If that is more than the total, it waits until the total has grown, and everybody behind it waits too. Zero tokens
    /// are lent at once, whoever waits.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire). When the first in the queue leaves, those behind it get what it was too large for.
    ///
    /// # Errors
    ///
    /// [`LimiterError::Closed`] as with `acquire`, and [`LimiterError::TooMany`] for more than
    /// [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn acquire_many(&self, tokens: usize) -> AcquireTokens<'_> {
        AcquireTokens::new(self, Ask::many(tokens))
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
        AcquireTokensOwned::new(self, Ask::ONE)
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
        AcquireTokensOwned::new(self, Ask::many(tokens))
    }

    /// Waits for one token, of the [reserve](Self::with_reserve) if others hold or wait for all else.
    ///
    /// It takes an ordinary token if one is free and nobody waits, else one of the reserve, and waits for the reserve if that is
    /// lent too, in the order of those who do. Without a reserve it is the same as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As `acquire`.
    ///
    /// # Errors
    ///
    /// As `acquire`.
    pub fn acquire_reserved(&self) -> AcquireTokens<'_> {
        AcquireTokens::new(self, Ask::Reserved)
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
        AcquireTokensOwned::new(self, Ask::Reserved)
    }

    /// Takes one token, if it is free and nobody waits.
    ///
    /// # Errors
    ///
    /// [`LimiterError::WouldBlock`] if not, and [`LimiterError::Closed`].
    #[inline]
    pub fn try_acquire(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_lend(Ask::ONE)
    }

    /// Takes `tokens` tokens, if so many are free and nobody waits. Zero tokens are lent whoever waits.
    ///
    /// # Errors
    ///
    /// [`LimiterError::WouldBlock`] if not, [`LimiterError::Closed`], and [`LimiterError::TooMany`] for more than
    /// [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn try_acquire_many(&self, tokens: usize) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_lend(Ask::many(tokens))
    }

    /// Takes one token, as [`try_acquire`](Self::try_acquire), that may outlive the caller.
    ///
    /// # Errors
    ///
    /// As `try_acquire`.
    pub fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedLimiterPermit, LimiterError> {
        self.try_lend_owned(Ask::ONE)
    }

    /// Takes `tokens` tokens, as [`try_acquire_many`](Self::try_acquire_many), that may outlive the caller.
    ///
    /// # Errors
    ///
    /// As `try_acquire_many`.
    pub fn try_acquire_many_owned(self: Arc<Self>, tokens: usize) -> Result<OwnedLimiterPermit, LimiterError> {
        self.try_lend_owned(Ask::many(tokens))
    }

    /// Takes one token, of the [reserve](Self::with_reserve) if others hold or wait for all else.
    ///
    /// # Errors
    ///
    /// [`LimiterError::WouldBlock`] if the reserve is lent too, and [`LimiterError::Closed`].
    pub fn try_acquire_reserved(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        self.try_lend(Ask::Reserved)
    }

    /// Waits for one token on this thread, in the same queue as the futures.
    ///
    /// For plain threads, `spawn_blocking` and `block_in_place`.
    ///
    /// # Errors
    ///
    /// [`LimiterError::Closed`] as with [`acquire`](Self::acquire), and [`LimiterError::BlockingInAsync`], also when a token
    /// is free, on a thread that runs async tasks. A task inside `tokio::task::unconstrained` can't be told from a thread that
    /// may block.
    pub fn acquire_blocking(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, Ask::ONE).map(LimiterPermit)
    }

    /// Waits for `tokens` tokens on this thread, as [`acquire_blocking`](Self::acquire_blocking).
    ///
    /// # Errors
    ///
    /// As `acquire_blocking`, and [`LimiterError::TooMany`] for more than [`MAX_TOTAL`](Self::MAX_TOTAL) tokens.
    pub fn acquire_many_blocking(&self, tokens: usize) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, Ask::many(tokens)).map(LimiterPermit)
    }

    /// Waits for one token on this thread, of the reserve if others hold or wait for all else, as
    /// [`acquire_reserved`](Self::acquire_reserved).
    ///
    /// # Errors
    ///
    /// As [`acquire_blocking`](Self::acquire_blocking).
    pub fn acquire_reserved_blocking(&self) -> Result<LimiterPermit<'_>, LimiterError> {
        blocking::acquire(self, Ask::Reserved).map(LimiterPermit)
    }

    /// Changes how many tokens there are, without the reserve.
    ///
    /// If there are more, those who wait get them, in their order. If there are fewer, nobody loses any: whoever gives back
    /// pays first what is [missing](super::LimiterStatistics::available). 0 is a pause. More than
    /// [`MAX_TOTAL`](Self::MAX_TOTAL) is taken for that.
    pub fn set_total(&self, total: usize) {
        self.semaphores.set_total(total);
    }

    /// How many tokens there are, without the reserve.
    #[must_use]
    pub fn total(&self) -> usize {
        self.semaphores.ordinary().total()
    }

    /// Lends nothing any more, not even of the reserve: who waits and who comes gets [`LimiterError::Closed`]. Who
    /// holds tokens goes on.
    pub fn close(&self) {
        self.semaphores.close();
    }

    /// Whether the limiter was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.semaphores.ordinary().is_closed()
    }

    /// The ordinary tokens, for a pool that waits for them without futures and permits.
    pub(crate) fn lane(&self) -> &TokenSemaphore {
        self.semaphores.ordinary()
    }

    #[inline]
    fn try_lend(&self, ask: Ask) -> Result<LimiterPermit<'_>, LimiterError> {
        self.semaphores.try_lend(ask).map(|loan| LimiterPermit(Held { limiter: self, loan }))
    }

    fn try_lend_owned(self: Arc<Self>, ask: Ask) -> Result<OwnedLimiterPermit, LimiterError> {
        let loan = self.semaphores.try_lend(ask)?;
        Ok(OwnedLimiterPermit(Held { limiter: self, loan }))
    }
}

impl fmt::Debug for CapacityLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.statistics();
        let mut debug = f.debug_struct("CapacityLimiter");
        debug.field("total", &now.total).field("borrowed", &now.borrowed).field("waiting", &now.waiting);
        debug.field("reserve", &now.reserve).field("closed", &now.closed).finish()
    }
}
