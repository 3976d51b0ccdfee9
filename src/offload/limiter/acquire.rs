//! [`AcquireTokens`] and [`AcquireTokensOwned`], the futures that wait for tokens.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;

use super::capacity_limiter::CapacityLimiter;
use super::error::LimiterError;
use super::permit::{HeldTokens, LimiterPermit, OwnedLimiterPermit};
use super::semaphores::{AcquiredTokens, TokenRequest};
use crate::semaphore::WaiterId;

/// Waits for tokens. Created by [`CapacityLimiter::acquire`] and its variants.
#[must_use = "futures do nothing unless polled"]
pub struct AcquireTokens<'a>(pub(super) TokenAcquisition<&'a CapacityLimiter>);

/// Waits for tokens that may outlive the caller. Created by [`CapacityLimiter::acquire_owned`] and its variants.
#[must_use = "futures do nothing unless polled"]
pub struct AcquireTokensOwned(pub(super) TokenAcquisition<Arc<CapacityLimiter>>);

/// A wait for tokens, by a task or by a thread.
pub(super) struct TokenAcquisition<L: Deref<Target = CapacityLimiter>> {
    /// `None` once the wait has completed.
    limiter: Option<L>,
    request: TokenRequest,
    /// Set while the caller is queued.
    waiter: Option<WaiterId>,
}

impl<'a> Future for AcquireTokens<'a> {
    type Output = Result<LimiterPermit<'a>, LimiterError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_ok(LimiterPermit)
    }
}

impl Future for AcquireTokensOwned {
    type Output = Result<OwnedLimiterPermit, LimiterError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_ok(OwnedLimiterPermit)
    }
}

impl<L: Deref<Target = CapacityLimiter>> TokenAcquisition<L> {
    pub(super) fn new(limiter: L, request: TokenRequest) -> Self {
        Self { limiter: Some(limiter), request, waiter: None }
    }

    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<HeldTokens<L>, LimiterError>> {
        // A task that finds free tokens again and again still lets other tasks run, as with tokio's own semaphore.
        let coop = ready!(coop::poll_proceed(cx));
        let result = match self.try_acquire() {
            Some(tokens) => Ok(tokens),
            None => ready!(self.poll_queue(cx.waker())),
        };
        coop.made_progress();
        Poll::Ready(self.complete(result))
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
            limiter.semaphores.cancel(self.request, waiter);
        }
    }
}

impl fmt::Debug for AcquireTokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireTokens").field("queued", &self.0.waiter.is_some()).finish()
    }
}

impl fmt::Debug for AcquireTokensOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireTokensOwned").field("queued", &self.0.waiter.is_some()).finish()
    }
}
