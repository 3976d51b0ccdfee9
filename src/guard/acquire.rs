//! [`AcquireFuture`], the future that waits for a permit.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use super::blocking;
use super::endpoint_guard::{EndpointGuard, SharedGuard};
use super::error::AcquireError;
use super::permit::{HeldPermit, OwnedPermit};
use super::remote::RemoteWait;
use super::run::RunToCompletion;
use super::source::PermitSource;
use super::wait::PermitWait;

use crate::backend::LockDomain;
use crate::debug::impl_debug;

/// Waits for a permit. Created by [`EndpointGuard::acquire`].
pub type Acquire<'a> = AcquireFuture<&'a EndpointGuard>;

/// Waits for a permit that may outlive the caller. Created by [`EndpointGuard::acquire_owned`].
pub type AcquireOwned = AcquireFuture<SharedGuard>;

/// Waits for a permit of `S`: a guard, or a guard and one of its keys.
///
/// [`Acquire`], [`AcquireOwned`], [`AcquireKey`](super::keyed::AcquireKey) and
/// [`AcquireKeyOwned`](super::keyed::AcquireKeyOwned) are aliases of this type.
#[must_use = "futures do nothing unless polled"]
pub struct AcquireFuture<S: PermitSource> {
    /// `None` once the future has completed.
    source: Option<S>,
    wait: PermitWait,
    /// What few waits need. `None` until then.
    slow: Option<Box<SlowWait<S>>>,
}

struct SlowWait<S: PermitSource> {
    timer: Option<Pin<Box<Sleep>>>,
    /// The wait for other processes, once the caller has its permit in this one.
    remote: Option<RemoteWait<S>>,
}

impl<S: PermitSource> Default for SlowWait<S> {
    fn default() -> Self {
        Self { timer: None, remote: None }
    }
}

impl SharedGuard {
    /// Waits for a permit, as [`EndpointGuard::acquire`] does.
    ///
    /// # Cancel safety
    ///
    /// See [`EndpointGuard::acquire`], which also describes errors and panics.
    pub fn acquire_owned(self) -> AcquireOwned {
        AcquireFuture::new(self)
    }

    /// Acquires a permit if one is available and no caller is waiting, as [`EndpointGuard::try_acquire`] does.
    ///
    /// # Errors
    ///
    /// Returns [`Busy`](crate::guard::AcquireErrorKind::Busy) or [`Closed`](crate::guard::AcquireErrorKind::Closed), at
    /// once.
    pub fn try_acquire_owned(self) -> Result<OwnedPermit, AcquireError> {
        HeldPermit::try_acquire(self)
    }

    /// Waits for a permit on the current thread, as [`EndpointGuard::acquire_blocking`] does.
    ///
    /// # Errors
    ///
    /// See [`EndpointGuard::acquire_blocking`].
    pub fn acquire_owned_blocking(self) -> Result<OwnedPermit, AcquireError> {
        blocking::acquire(self)
    }

    /// Waits for a permit and runs `future` to completion while holding it, as
    /// [`EndpointGuard::run_to_completion`] does.
    ///
    /// # Cancel safety
    ///
    /// See [`EndpointGuard::run_to_completion`], which also describes errors and panics.
    pub fn run_to_completion<F>(self, future: F) -> RunToCompletion<F>
    where
        F: Future + Send + 'static,
    {
        RunToCompletion::new(self, future)
    }
}

impl<S: PermitSource> AcquireFuture<S> {
    pub(crate) fn new(source: S) -> Self {
        Self::since(source, None)
    }

    /// Waits for a permit, for a caller that began to wait at `since` already.
    pub(super) fn since(source: S, since: Option<Instant>) -> Self {
        Self { source: Some(source), wait: PermitWait::since(since), slow: None }
    }

    /// Returns when the caller began to wait, if it has waited and the guard has a time limit.
    pub(super) fn began(&self) -> Option<Instant> {
        let remote = self.slow.as_ref().and_then(|slow| slow.remote.as_ref());
        remote.map_or_else(|| self.wait.began(), |remote| Some(remote.since()))
    }

    #[cold]
    #[inline(never)]
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AcquireError>> {
        let Self { source, wait, slow } = self;
        let source = source.as_mut().expect("`poll` checked the source");
        let result =
            if wait.is_queued() { wait.poll_nested(source, cx.waker()) } else { wait.enqueue(source, cx.waker()) };
        if let Some(result) = result {
            return Poll::Ready(result);
        }
        // From here on the caller is queued: if setting the timer panics, dropping this future cancels the waiter.
        while let Some(deadline) = wait.next_deadline() {
            let timer = &mut slow.get_or_insert_default().timer;
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

impl<S: PermitSource> AcquireFuture<S> {
    /// Waits for other processes.
    #[cold]
    #[inline(never)]
    fn begin_remote(
        &mut self,
        source: S,
        domain: &'static LockDomain,
        cx: &mut Context<'_>,
    ) -> Poll<Result<HeldPermit<S>, AcquireError>> {
        let remote = RemoteWait::new(HeldPermit::new(source), domain, self.wait.began())?;
        self.slow.get_or_insert_default().remote = Some(remote);
        self.poll_remote(cx)
    }

    #[cold]
    #[inline(never)]
    fn poll_remote(&mut self, cx: &mut Context<'_>) -> Poll<Result<HeldPermit<S>, AcquireError>> {
        let slow = self.slow.as_deref_mut();
        let Some(SlowWait { timer, remote: Some(remote) }) = slow else {
            panic!("an acquire future is not polled after it completed")
        };
        let result = ready!(remote.poll_until(timer, cx));
        self.slow = None;
        Poll::Ready(result)
    }
}

impl<S: PermitSource> Future for AcquireFuture<S> {
    type Output = Result<HeldPermit<S>, AcquireError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.source.is_none() {
            return this.poll_remote(cx);
        }
        // A task that finds the guard available every time must still yield to other tasks, as with tokio's own locks.
        let coop = ready!(coop::poll_proceed(cx));
        let source = this.source.as_mut().expect("the source was present above");
        let result =
            if !this.wait.is_queued() && source.try_acquire().is_ok() { Ok(()) } else { ready!(this.poll_wait(cx)) };
        coop.made_progress();
        let source = this.source.take().expect("the source was present above");
        if result.is_ok()
            && let Some(domain) = source.core().domain
        {
            return this.begin_remote(source, domain, cx);
        }
        Poll::Ready(result.map(|()| HeldPermit::new(source)))
    }
}

// Nothing in the future is structurally pinned: the timer is boxed.
impl<S: PermitSource> Unpin for AcquireFuture<S> {}

impl<S: PermitSource> Drop for AcquireFuture<S> {
    #[inline]
    fn drop(&mut self) {
        if self.wait.is_queued()
            && let Some(source) = &mut self.source
        {
            self.wait.leave(source);
        }
    }
}

impl_debug!([S: PermitSource] AcquireFuture<S> |this| {
    guard: this.source.as_ref().map(|source| source.core().name), queued: this.wait.is_queued()
});
