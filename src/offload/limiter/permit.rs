//! [`LimiterPermit`] and [`OwnedLimiterPermit`], tokens that are lent.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::capacity_limiter::CapacityLimiter;
use super::semaphores::Loan;

/// Tokens of a [`CapacityLimiter`]. Dropping it gives them back.
///
/// Bind it to a name, such as `_permit`: `let _ = limiter.acquire().await?;` gives back where it began.
///
/// A panic that drops it does the same: nothing is poisoned.
#[must_use = "the tokens are given back as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct LimiterPermit<'a>(pub(super) Held<&'a CapacityLimiter>);

/// Tokens of a [`CapacityLimiter`] that outlive the caller: it owns its share of the limiter, so it can move to another
/// task or thread.
///
/// Dropping it gives them back, also in a panic.
#[must_use = "the tokens are given back as soon as the permit is dropped: bind it to `_permit`, not to `_`"]
pub struct OwnedLimiterPermit(pub(super) Held<Arc<CapacityLimiter>>);

/// What the limiter behind `L` has lent.
pub(super) struct Held<L: Deref<Target = CapacityLimiter>> {
    pub(super) limiter: L,
    pub(super) loan: Loan,
}

impl LimiterPermit<'_> {
    /// How many tokens these are.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.0.loan.tokens()
    }
}

impl OwnedLimiterPermit {
    /// How many tokens these are.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.0.loan.tokens()
    }
}

impl<L: Deref<Target = CapacityLimiter>> Drop for Held<L> {
    #[inline]
    fn drop(&mut self) {
        self.limiter.semaphores.give_back(self.loan);
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
