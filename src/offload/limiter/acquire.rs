//! [`AcquireTokens`] and [`AcquireTokensOwned`], the futures that wait for tokens.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;

use super::capacity_limiter::CapacityLimiter;
use super::error::LimiterError;
use super::permit::{Held, LimiterPermit, OwnedLimiterPermit};
use super::semaphores::{Ask, Loan};
use crate::semaphore::WaiterId;

/// Waits for tokens. Made by [`CapacityLimiter::acquire`] and its relatives.
#[must_use = "futures do nothing unless polled"]
pub struct AcquireTokens<'a>(Acquiring<&'a CapacityLimiter>);

/// Waits for tokens that may outlive the caller. Made by [`CapacityLimiter::acquire_owned`] and its relatives.
#[must_use = "futures do nothing unless polled"]
pub struct AcquireTokensOwned(Acquiring<Arc<CapacityLimiter>>);

/// One wait for tokens, of a task or of a thread.
pub(super) struct Acquiring<L: Deref<Target = CapacityLimiter>> {
    /// `None` once the wait is over.
    limiter: Option<L>,
    ask: Ask,
    /// `None` before lining up and after.
    ticket: Option<WaiterId>,
}

impl<'a> AcquireTokens<'a> {
    pub(super) fn new(limiter: &'a CapacityLimiter, ask: Ask) -> Self {
        Self(Acquiring::new(limiter, ask))
    }
}

impl AcquireTokensOwned {
    pub(super) fn new(limiter: Arc<CapacityLimiter>, ask: Ask) -> Self {
        Self(Acquiring::new(limiter, ask))
    }
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

impl<L: Deref<Target = CapacityLimiter>> Acquiring<L> {
    pub(super) fn new(limiter: L, ask: Ask) -> Self {
        Self { limiter: Some(limiter), ask, ticket: None }
    }

    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Held<L>, LimiterError>> {
        // A task that finds tokens free again and again still lets others run, as with tokio's own semaphore.
        let coop = ready!(coop::poll_proceed(cx));
        let result = match self.try_lend() {
            Some(loan) => Ok(loan),
            None => ready!(self.poll_turn(cx.waker())),
        };
        coop.made_progress();
        Poll::Ready(self.end(result))
    }

    /// What is free at once, for who has not lined up yet.
    #[inline]
    pub(super) fn try_lend(&self) -> Option<Loan> {
        if self.ticket.is_some() { None } else { self.limiter().semaphores.try_lend(self.ask).ok() }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn poll_turn(&mut self, waker: &Waker) -> Poll<Result<Loan, LimiterError>> {
        let Self { limiter, ask, ticket } = self;
        let semaphores = &limiter.as_ref().expect(OVER).semaphores;
        let result = if ticket.is_some() {
            semaphores.ask(*ask, ticket, waker)
        } else {
            semaphores.line_up(*ask, ticket, waker)
        };
        result.map_or(Poll::Pending, Poll::Ready)
    }

    /// Hands over what the wait ended with.
    #[inline]
    pub(super) fn end(&mut self, result: Result<Loan, LimiterError>) -> Result<Held<L>, LimiterError> {
        let limiter = self.limiter.take().expect(OVER);
        result.map(|loan| Held { limiter, loan })
    }

    #[inline]
    fn limiter(&self) -> &L {
        self.limiter.as_ref().expect(OVER)
    }
}

const OVER: &str = "an acquire future is not polled after it completed";

impl<L: Deref<Target = CapacityLimiter>> Drop for Acquiring<L> {
    #[inline]
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take()
            && let Some(limiter) = &self.limiter
        {
            limiter.semaphores.withdraw(self.ask, ticket);
        }
    }
}

impl fmt::Debug for AcquireTokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireTokens").field("queued", &self.0.ticket.is_some()).finish()
    }
}

impl fmt::Debug for AcquireTokensOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireTokensOwned").field("queued", &self.0.ticket.is_some()).finish()
    }
}
