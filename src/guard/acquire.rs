//! [`Acquire`] and [`AcquireOwned`], the futures that wait for a turn.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use super::EndpointGuard;
use super::core::Gate;
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

/// Every future that waits for one turn. `G` is how it reaches its lane.
pub(crate) struct Acquiring<G: Gate> {
    /// `None` once the future has completed.
    gate: Option<G>,
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

impl<G: Gate> Acquiring<G> {
    pub(crate) fn new(gate: G) -> Self {
        Self { gate: Some(gate), wait: Wait::default(), timer: None }
    }

    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Held<G>, AcquireError>> {
        // A task that finds the guard free again and again still lets others run, as with tokio's own locks.
        let coop = ready!(coop::poll_proceed(cx));
        let gate = self.gate.as_mut().expect("an acquire future is not polled after it completed");
        let result =
            if !self.wait.is_queued() && gate.try_enter().is_ok() { Ok(()) } else { ready!(self.poll_turn(cx)) };
        coop.made_progress();
        let gate = self.gate.take().expect("looked at above");
        Poll::Ready(result.map(|()| Held::new(gate)))
    }

    #[cold]
    #[inline(never)]
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AcquireError>> {
        let Self { gate, wait, timer } = self;
        let gate = gate.as_mut().expect("poll looked at it");
        let result = if wait.is_queued() { wait.ask_again(gate, cx.waker()) } else { wait.line_up(gate, cx.waker()) };
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
            if let Some(result) = wait.look_up(gate, at.max(Instant::now())).or_else(|| wait.ask(gate, cx.waker())) {
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }
}

impl<G: Gate> Drop for Acquiring<G> {
    #[inline]
    fn drop(&mut self) {
        if self.wait.is_queued()
            && let Some(gate) = &mut self.gate
        {
            self.wait.abandon(gate);
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

impl<G: Gate> Acquiring<G> {
    pub(crate) fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = self.gate.as_ref().map(|gate| gate.core().name);
        f.debug_struct(name).field("guard", &guard).field("queued", &self.wait.is_queued()).finish()
    }
}

impl<G: Gate> fmt::Debug for Acquiring<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as("Acquire", f)
    }
}
