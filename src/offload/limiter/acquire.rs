//! [`AcquireTokens`] and [`AcquireTokensOwned`], the futures that wait for tokens.

use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;

use super::blocking;
use super::capacity_limiter::{CapacityLimiter, SharedLimiter};
use super::error::LimiterError;
use super::permit::{HeldTokens, OwnedLimiterPermit};
use super::semaphores::{AcquiredTokens, TokenRequest};
use crate::debug::impl_debug;
use crate::semaphore::WaiterId;

/// Waits for tokens. Created by [`CapacityLimiter::acquire`] and its variants.
pub type AcquireTokens<'a> = TokenAcquisition<&'a CapacityLimiter>;

/// Waits for tokens that may outlive the caller. Created by [`CapacityLimiter::acquire_owned`] and its variants.
pub type AcquireTokensOwned = TokenAcquisition<SharedLimiter>;

/// Waits for tokens, as a task or on a thread. `L` is a reference to the limiter or shares ownership of it.
///
/// [`AcquireTokens`] and [`AcquireTokensOwned`] are aliases of this type.
#[must_use = "futures do nothing unless polled"]
pub struct TokenAcquisition<L: Deref<Target = CapacityLimiter>> {
    /// `None` once the wait has completed.
    limiter: Option<L>,
    request: TokenRequest,
    /// Set while the caller is queued.
    waiter: Option<WaiterId>,
}

impl<L: Deref<Target = CapacityLimiter> + Unpin> Future for TokenAcquisition<L> {
    type Output = Result<HeldTokens<L>, LimiterError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A task that finds free tokens again and again still lets other tasks run, as with tokio's own semaphore.
        let coop = ready!(coop::poll_proceed(cx));
        let result = match self.try_acquire() {
            Some(tokens) => Ok(tokens),
            None => ready!(self.poll_queue(cx.waker())),
        };
        coop.made_progress();
        Poll::Ready(self.complete(result))
    }
}

/// The methods of [`CapacityLimiter`] with these names, which describe cancel safety and errors.
impl SharedLimiter {
    /// Waits for one token.
    pub fn acquire_owned(self) -> AcquireTokensOwned {
        TokenAcquisition::new(self, TokenRequest::ONE)
    }

    /// Waits for `tokens` tokens.
    pub fn acquire_many_owned(self, tokens: usize) -> AcquireTokensOwned {
        TokenAcquisition::new(self, TokenRequest::many(tokens))
    }

    /// Waits for one token, from the reserve if no other is free.
    pub fn acquire_reserved_owned(self) -> AcquireTokensOwned {
        TokenAcquisition::new(self, TokenRequest::Reserved)
    }

    /// Acquires one token if one is free and no caller is queued.
    ///
    /// # Errors
    ///
    /// See [`CapacityLimiter::try_acquire`].
    pub fn try_acquire_owned(self) -> Result<OwnedLimiterPermit, LimiterError> {
        let tokens = self.semaphores.try_acquire(TokenRequest::ONE)?;
        Ok(HeldTokens { limiter: self, tokens })
    }

    /// Acquires `tokens` tokens if that many are free and no caller is queued.
    ///
    /// # Errors
    ///
    /// See [`CapacityLimiter::try_acquire_many`].
    pub fn try_acquire_many_owned(self, tokens: usize) -> Result<OwnedLimiterPermit, LimiterError> {
        let tokens = self.semaphores.try_acquire(TokenRequest::many(tokens))?;
        Ok(HeldTokens { limiter: self, tokens })
    }

    /// Acquires one token, from the reserve if no other is free.
    ///
    /// # Errors
    ///
    /// See [`CapacityLimiter::try_acquire_reserved`].
    pub fn try_acquire_reserved_owned(self) -> Result<OwnedLimiterPermit, LimiterError> {
        let tokens = self.semaphores.try_acquire(TokenRequest::Reserved)?;
        Ok(HeldTokens { limiter: self, tokens })
    }

    /// Blocks this thread until it has acquired one token.
    ///
    /// # Errors
    ///
    /// See [`CapacityLimiter::acquire_blocking`].
    pub fn acquire_owned_blocking(self) -> Result<OwnedLimiterPermit, LimiterError> {
        blocking::acquire(self, TokenRequest::ONE)
    }

    /// Blocks this thread until it has acquired `tokens` tokens.
    ///
    /// # Errors
    ///
    /// See [`CapacityLimiter::acquire_many_blocking`].
    pub fn acquire_many_owned_blocking(self, tokens: usize) -> Result<OwnedLimiterPermit, LimiterError> {
        blocking::acquire(self, TokenRequest::many(tokens))
    }

    /// Blocks this thread until it has acquired one token, from the reserve if no other is free.
    ///
    /// # Errors
    ///
    /// See [`CapacityLimiter::acquire_reserved_blocking`].
    pub fn acquire_reserved_owned_blocking(self) -> Result<OwnedLimiterPermit, LimiterError> {
        blocking::acquire(self, TokenRequest::Reserved)
    }
}

impl<L: Deref<Target = CapacityLimiter>> TokenAcquisition<L> {
    pub(super) fn new(limiter: L, request: TokenRequest) -> Self {
        Self { limiter: Some(limiter), request, waiter: None }
    }

    /// Acquires free tokens immediately, unless the caller is already queued.
    #[inline]
    pub(super) fn try_acquire(&self) -> Option<AcquiredTokens> {
        if self.waiter.is_some() { None } else { self.limiter().semaphores.try_acquire(self.request).ok() }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn poll_queue(&mut self, waker: &Waker) -> Poll<Result<AcquiredTokens, LimiterError>> {
        let Self { limiter, request, waiter } = self;
        let semaphores = &limiter.as_ref().expect(COMPLETED).semaphores;
        let result = if waiter.is_some() {
            semaphores.poll_waiter(*request, waiter, waker)
        } else {
            semaphores.enqueue(*request, waiter, waker)
        };
        result.map_or(Poll::Pending, Poll::Ready)
    }

    /// Completes the wait.
    #[inline]
    pub(super) fn complete(
        &mut self,
        result: Result<AcquiredTokens, LimiterError>,
    ) -> Result<HeldTokens<L>, LimiterError> {
        let limiter = self.limiter.take().expect(COMPLETED);
        result.map(|tokens| HeldTokens { limiter, tokens })
    }

    #[inline]
    fn limiter(&self) -> &L {
        self.limiter.as_ref().expect(COMPLETED)
    }
}

const COMPLETED: &str = "an acquire future is not polled after it completed";

impl<L: Deref<Target = CapacityLimiter>> Drop for TokenAcquisition<L> {
    #[inline]
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take()
            && let Some(limiter) = &self.limiter
        {
            limiter.cancel(self.request, waiter);
        }
    }
}

impl_debug!([L: Deref<Target = CapacityLimiter>] TokenAcquisition<L> |this| { queued: this.waiter.is_some() });
