//! [`LimiterPermit`] and [`OwnedLimiterPermit`], tokens that are held.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::capacity_limiter::CapacityLimiter;
use super::semaphores::AcquiredTokens;

/// Tokens of a [`CapacityLimiter`]. Dropping the permit releases them.
///
/// Bind it to a name, such as `_permit`: `let _ = limiter.acquire().await?;` releases the tokens immediately.
///
/// A panic that drops the permit releases the tokens too, and poisons nothing.
#[must_use = "the tokens are released as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct LimiterPermit<'a>(pub(super) HeldTokens<&'a CapacityLimiter>);

/// Tokens of a [`CapacityLimiter`] that may outlive the caller: the permit holds an `Arc` of the limiter, so the permit
/// can move to another task or thread.
///
/// Dropping the permit releases the tokens, also during a panic.
#[must_use = "the tokens are released as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct OwnedLimiterPermit(pub(super) HeldTokens<Arc<CapacityLimiter>>);

/// Releases `tokens` to `limiter` when it is dropped.
pub(super) struct HeldTokens<L: Deref<Target = CapacityLimiter>> {
    pub(super) limiter: L,
    pub(super) tokens: AcquiredTokens,
}

impl LimiterPermit<'_> {
    /// Returns the number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.0.tokens.count()
    }
}

impl OwnedLimiterPermit {
    /// Returns the number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.0.tokens.count()
    }
}

impl<L: Deref<Target = CapacityLimiter>> Drop for HeldTokens<L> {
    #[inline]
    fn drop(&mut self) {
        self.limiter.semaphores.release(self.tokens);
    }
}

impl fmt::Debug for LimiterPermit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimiterPermit").field("tokens", &self.tokens()).finish()
    }
}

impl fmt::Debug for OwnedLimiterPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedLimiterPermit").field("tokens", &self.tokens()).finish()
    }
}
