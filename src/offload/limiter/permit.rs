//! [`LimiterPermit`] and [`OwnedLimiterPermit`], tokens that are held.

use std::ops::Deref;

use super::capacity_limiter::{CapacityLimiter, SharedLimiter};
use super::semaphores::AcquiredTokens;
use crate::debug::impl_debug;

/// Tokens of a [`CapacityLimiter`]. Dropping the permit releases them.
///
/// Bind it to a name, such as `_permit`: `let _ = limiter.acquire().await?;` releases the tokens immediately.
///
/// A panic that drops the permit releases the tokens too, and poisons nothing.
pub type LimiterPermit<'a> = HeldTokens<&'a CapacityLimiter>;

/// Tokens of a [`CapacityLimiter`] that may outlive the caller: the permit shares ownership of the limiter, so
/// the permit can move to another task or thread.
///
/// Dropping the permit releases the tokens, also during a panic.
pub type OwnedLimiterPermit = HeldTokens<SharedLimiter>;

/// Tokens of a [`CapacityLimiter`]. `L` is a reference to the limiter or shares ownership of it.
///
/// [`LimiterPermit`] and [`OwnedLimiterPermit`] are aliases of this type.
#[must_use = "the tokens are released as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct HeldTokens<L: Deref<Target = CapacityLimiter>> {
    pub(super) limiter: L,
    pub(super) tokens: AcquiredTokens,
}

impl<L: Deref<Target = CapacityLimiter>> HeldTokens<L> {
    /// Returns the number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens.count()
    }
}

impl<L: Deref<Target = CapacityLimiter>> Drop for HeldTokens<L> {
    #[inline]
    fn drop(&mut self) {
        self.limiter.release(self.tokens);
    }
}

impl_debug!([L: Deref<Target = CapacityLimiter>] HeldTokens<L> |this| { tokens: this.tokens() });
