//! [`Acquire`] and [`AcquireOwned`], the futures that wait for a permit.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use super::endpoint_guard::{EndpointGuard, SharedGuard};
use super::error::AcquireError;
use super::permit::{HeldPermit, OwnedPermit, Permit};
use super::source::PermitSource;
use super::wait::PermitWait;

/// Waits for a permit. Created by [`EndpointGuard::acquire`].
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<'a>(AcquireFuture<&'a EndpointGuard>);

/// Waits for a permit that may outlive the caller. Created by [`EndpointGuard::acquire_owned`].
#[must_use = "futures do nothing unless polled"]
pub struct AcquireOwned(AcquireFuture<SharedGuard>);

/// The wait for one permit. Every future that acquires a permit contains one.
pub(crate) struct AcquireFuture<S: PermitSource> {
    /// `None` once the future has completed.
    source: Option<S>,
    wait: PermitWait,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Acquire<'a> {
    pub(super) fn new(guard: &'a EndpointGuard) -> Self {
        Self(AcquireFuture::new(guard))
    }
}

impl<'a> Future for Acquire<'a> {
    type Output = Result<Permit<'a>, AcquireError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_ok(Permit)
    }
}

impl Future for AcquireOwned {
    type Output = Result<OwnedPermit, AcquireError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_ok(OwnedPermit)
    }
}

impl SharedGuard {
    /// Waits for a permit, as [`EndpointGuard::acquire`] does.
    ///
    /// # Cancel safety
    ///
    /// See [`EndpointGuard::acquire`], which also describes errors and panics.
    pub fn acquire_owned(self) -> AcquireOwned {
        AcquireOwned(AcquireFuture::new(self))
    }

    /// Acquires a permit if one is available and no caller is waiting, as [`EndpointGuard::try_acquire`] does.
    ///
    /// # Errors
    ///
    /// Returns [`Busy`](AcquireError::Busy) or [`Closed`](AcquireError::Closed), at once.
    pub fn try_acquire_owned(self) -> Result<OwnedPermit, AcquireError> {
        HeldPermit::try_acquire(self).map(OwnedPermit)
    }
}

impl<S: PermitSource> AcquireFuture<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source: Some(source), wait: PermitWait::default(), timer: None }
    }

    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<HeldPermit<S>, AcquireError>> {
        // A task that finds the guard available every time must still yield to other tasks, as with tokio's own locks.
        let coop = ready!(coop::poll_proceed(cx));
        let source = self.source.as_mut().expect("an acquire future is not polled after it completed");
        let result =
            if !self.wait.is_queued() && source.try_acquire().is_ok() { Ok(()) } else { ready!(self.poll_wait(cx)) };
        coop.made_progress();
        let source = self.source.take().expect("the source was present above");
        Poll::Ready(result.map(|()| HeldPermit::new(source)))
    }

    #[cold]
    #[inline(never)]
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AcquireError>> {
        let Self { source, wait, timer } = self;
        let source = source.as_mut().expect("`poll` checked the source");
        let result =
            if wait.is_queued() { wait.poll_nested(source, cx.waker()) } else { wait.enqueue(source, cx.waker()) };
        if let Some(result) = result {
            return Poll::Ready(result);
        }
        // From here on the caller is queued: if setting the timer panics, dropping this future cancels the waiter.
        while let Some(deadline) = wait.next_deadline() {
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            // The timer bounds the wait, so it is polled even if the task's budget is used up.
            ready!(Pin::new(&mut coop::unconstrained(timer.as_mut())).poll(cx));
            let now = deadline.max(Instant::now());
            if let Some(result) = wait.poll_deadlines(source, now).or_else(|| wait.poll(source, cx.waker())) {
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }
}

impl<S: PermitSource> Drop for AcquireFuture<S> {
    #[inline]
    fn drop(&mut self) {
        if self.wait.is_queued()
            && let Some(source) = &mut self.source
        {
            self.wait.cancel(source);
        }
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("Acquire", f)
    }
}

impl fmt::Debug for AcquireOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("AcquireOwned", f)
    }
}

impl<S: PermitSource> AcquireFuture<S> {
    pub(super) fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = self.source.as_ref().map(|source| source.core().name);
        f.debug_struct(name).field("guard", &guard).field("queued", &self.wait.is_queued()).finish()
    }
}

impl<S: PermitSource> fmt::Debug for AcquireFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as("Acquire", f)
    }
}
