//! [`Acquire`] and [`AcquireOwned`], the futures that wait for a turn.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use super::EndpointGuard;
use super::error::AcquireError;
use super::permit::{Held, OwnedPermit, Permit};
use super::shared::SharedGuard;
use super::wait::Wait;

/// Waits for a turn. Made by [`EndpointGuard::acquire`].
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<'a>(Acquiring<&'a EndpointGuard>);

/// Waits for a turn whose permit may outlive the caller. Made by [`EndpointGuard::acquire_owned`].
#[must_use = "futures do nothing unless polled"]
pub struct AcquireOwned(Acquiring<SharedGuard>);

/// Both futures: `G` is how they reach the guard.
pub(super) struct Acquiring<G: Deref<Target = EndpointGuard>> {
    /// `None` once the future has completed.
    guard: Option<G>,
    wait: Wait,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Acquire<'a> {
    pub(super) fn new(guard: &'a EndpointGuard) -> Self {
        Self(Acquiring::new(guard))
    }
}

impl AcquireOwned {
    pub(super) fn new(guard: SharedGuard) -> Self {
        Self(Acquiring::new(guard))
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

impl<G: Deref<Target = EndpointGuard>> Acquiring<G> {
    fn new(guard: G) -> Self {
        Self { guard: Some(guard), wait: Wait::default(), timer: None }
    }

    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Held<G>, AcquireError>> {
        // A task that finds the guard free again and again still lets others run, as with tokio's own locks.
        let coop = ready!(coop::poll_proceed(cx));
        let guard = self.guard.as_deref().expect("an acquire future is not polled after it completed");
        let result =
            if !self.wait.is_queued() && guard.lane.try_enter().is_ok() { Ok(()) } else { ready!(self.poll_turn(cx)) };
        coop.made_progress();
        let guard = self.guard.take().expect("looked at above");
        Poll::Ready(result.map(|()| Held::new(guard)))
    }

    #[cold]
    #[inline(never)]
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AcquireError>> {
        let Self { guard, wait, timer } = self;
        let guard = guard.as_deref().expect("poll looked at it");
        let result = if wait.is_queued() { wait.ask_again(guard, cx.waker()) } else { wait.line_up(guard, cx.waker()) };
        if let Some(result) = result {
            return Poll::Ready(result);
        }
        // From lining up on, dropping this future leaves the queue, also if setting the timer panics.
        while let Some(at) = wait.next_look() {
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            // Whatever is left of the task's budget: the timer is what bounds the wait.
            ready!(Pin::new(&mut coop::unconstrained(timer.as_mut())).poll(cx));
            if let Some(result) = wait.look_up(guard, at.max(Instant::now())).or_else(|| wait.ask(guard, cx.waker())) {
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }
}

impl<G: Deref<Target = EndpointGuard>> Drop for Acquiring<G> {
    #[inline]
    fn drop(&mut self) {
        if self.wait.is_queued()
            && let Some(guard) = &self.guard
        {
            self.wait.abandon(guard);
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

impl<G: Deref<Target = EndpointGuard>> Acquiring<G> {
    fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = self.guard.as_deref().map(EndpointGuard::name);
        f.debug_struct(name).field("guard", &guard).field("queued", &self.wait.is_queued()).finish()
    }
}
