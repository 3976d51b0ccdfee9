//! [`LimiterPermit`] and [`OwnedLimiterPermit`], tokens that are held.

use std::ops::Deref;
use std::{mem, ptr};

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
#[must_use = "the tokens are released as soon as the permit is dropped: bind it to a name such as `_permit`, not to `_`"]
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

    /// Adds the tokens of `other` to this permit.
    ///
    /// # Panics
    ///
    /// Panics if `other` holds tokens of another limiter.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), onelane::offload::LimiterError> {
    /// let limiter = onelane::CapacityLimiter::new(10);
    /// let mut all = limiter.try_acquire_many(4)?;
    /// all.merge(limiter.try_acquire()?);
    /// assert_eq!(all.tokens(), 5);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn merge(&mut self, mut other: Self) {
        assert!(ptr::eq(&*self.limiter, &*other.limiter), "only permits of the same limiter can be merged");
        self.tokens = self.tokens.merge(mem::replace(&mut other.tokens, AcquiredTokens::NOTHING));
    }

    /// Moves `tokens` tokens to a new permit, which releases them separately. Returns `None`, and changes nothing, if
    /// this permit holds fewer tokens.
    ///
    /// Tokens of the [reserve](CapacityLimiter::with_reserve) are moved last.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = onelane::CapacityLimiter::new(10);
    /// let mut all = limiter.try_acquire_many(4)?;
    /// let one = all.split(1).ok_or("too few tokens")?;
    /// assert_eq!((all.tokens(), one.tokens()), (3, 1));
    /// drop(one);
    /// assert_eq!(limiter.stats().borrowed, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn split(&mut self, tokens: usize) -> Option<Self>
    where
        L: Clone,
    {
        let limiter = self.limiter.clone();
        self.tokens.split(tokens).map(|tokens| Self { limiter, tokens })
    }

    /// Removes the tokens from the limiter instead of releasing them: the [total](CapacityLimiter::total) shrinks by
    /// the same number, but not below zero. [`update_total`](CapacityLimiter::update_total) can add tokens again,
    /// except to the reserve.
    ///
    /// The tokens are no longer held, so [`drained`](CapacityLimiter::drained) does not wait for them.
    ///
    /// A token of the [reserve](CapacityLimiter::with_reserve) never comes back. Once the whole reserve is forgotten,
    /// [`acquire_reserved`](CapacityLimiter::acquire_reserved) acquires an ordinary token if one is free, and otherwise
    /// waits until the limiter is closed: its callers are queued for the reserve only. With [`std::mem::forget`] of a
    /// permit the same happens, and `drained` waits for its tokens forever.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), onelane::offload::LimiterError> {
    /// let limiter = onelane::CapacityLimiter::new(10);
    /// limiter.try_acquire_many(4)?.forget();
    /// assert_eq!((limiter.total(), limiter.stats().borrowed), (6, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn forget(mut self) {
        self.limiter.forget(mem::replace(&mut self.tokens, AcquiredTokens::NOTHING));
    }
}

impl<L: Deref<Target = CapacityLimiter>> Drop for HeldTokens<L> {
    #[inline]
    fn drop(&mut self) {
        self.limiter.release(self.tokens);
    }
}

impl_debug!([L: Deref<Target = CapacityLimiter>] HeldTokens<L> |this| { tokens: this.tokens() });
