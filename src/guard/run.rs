//! [`Run`] and [`RunToCompletion`], the futures that run work inside a guard.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use super::acquire::AcquireFuture;
use super::endpoint_guard::{EndpointGuard, SharedGuard};
use super::error::AcquireError;
use super::guarded_work::{GuardedWork, poll_with_permit};
use super::permit::HeldPermit;
use super::source::{OwnedPermitSource, PermitSource};
use crate::debug::impl_debug;

/// Runs a future inside a guard. Created by [`EndpointGuard::run`].
pub type Run<'a, F> = RunFuture<&'a EndpointGuard, F>;

/// Runs a future inside a guard to completion, in its own task if the caller is cancelled. Created by
/// [`EndpointGuard::run_to_completion`].
pub type RunToCompletion<F> = RunToCompletionFuture<SharedGuard, F>;

pin_project! {
    /// Acquires a permit of `S` and runs a future while holding it.
    ///
    /// [`Run`] and [`RunKeyed`](super::keyed::RunKeyed) are aliases of this type.
    #[must_use = "futures do nothing unless polled"]
    pub struct RunFuture<S: PermitSource, F> {
        #[pin]
        acquire: AcquireFuture<S>,
        // Dropped before the permit, so that no other caller runs inside the guard while the future is being dropped.
        // `None` once the future has completed.
        #[pin]
        future: Option<F>,
        permit: Option<HeldPermit<S>>,
    }
}

impl<S: PermitSource, F> RunFuture<S, F> {
    pub(super) fn new(source: S, future: F) -> Self {
        Self { acquire: AcquireFuture::new(source), future: Some(future), permit: None }
    }
}

impl<S: PermitSource, F: Future> Future for RunFuture<S, F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.permit.is_none() {
            *this.permit = Some(ready!(this.acquire.as_mut().poll(cx))?);
        }
        let future = this.future.as_mut().as_pin_mut().expect("the future completes once, together with the permit");
        let output = ready!(poll_with_permit(this.permit, future, cx));
        this.future.set(None);
        *this.permit = None;
        Poll::Ready(Ok(output))
    }
}

/// Acquires a permit of `S` and runs a future to completion while holding it, with or without the caller.
///
/// [`RunToCompletion`] and [`RunKeyedToCompletion`](super::keyed::RunKeyedToCompletion) are aliases of this type.
#[must_use = "futures do nothing unless polled"]
pub struct RunToCompletionFuture<S: OwnedPermitSource, F: Future + Send + 'static> {
    acquire: AcquireFuture<S>,
    state: RunState<F, S>,
}

enum RunState<F, S: OwnedPermitSource> {
    Acquiring(Pin<Box<F>>),
    Running(GuardedWork<F, S>),
    Done,
}

impl<S: OwnedPermitSource, F: Future + Send + 'static> RunToCompletionFuture<S, F> {
    pub(super) fn new(source: S, future: F) -> Self {
        Self { acquire: AcquireFuture::new(source), state: RunState::Acquiring(Box::pin(future)) }
    }
}

impl<S: OwnedPermitSource, F: Future + Send + 'static> Future for RunToCompletionFuture<S, F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match mem::replace(&mut self.state, RunState::Done) {
                RunState::Acquiring(work) => match Pin::new(&mut self.acquire).poll(cx) {
                    Poll::Ready(permit) => self.state = RunState::Running(GuardedWork::new(work, permit?)),
                    Poll::Pending => {
                        self.state = RunState::Acquiring(work);
                        return Poll::Pending;
                    }
                },
                // A panic leaves the state `Done`: such work cannot continue.
                RunState::Running(mut work) => match work.poll(cx) {
                    Poll::Ready(output) => return Poll::Ready(Ok(output)),
                    Poll::Pending => {
                        self.state = RunState::Running(work);
                        return Poll::Pending;
                    }
                },
                RunState::Done => panic!("a run_to_completion future is not polled after it completed"),
            }
        }
    }
}

impl<S: OwnedPermitSource, F: Future + Send + 'static> Drop for RunToCompletionFuture<S, F> {
    fn drop(&mut self) {
        if let RunState::Running(work) = mem::replace(&mut self.state, RunState::Done)
            && let Some(detached) = work.detach(None)
            && let Ok(runtime) = Handle::try_current()
        {
            // Without a runtime the work is dropped here, and counted as cut off.
            runtime.spawn(detached);
        }
    }
}

// Nothing in the future is structurally pinned: the work is boxed.
impl<S: OwnedPermitSource, F: Future + Send + 'static> Unpin for RunToCompletionFuture<S, F> {}

impl_debug!([S: PermitSource, F] RunFuture<S, F> |this| { acquire: this.acquire, permit: this.permit, .. });

impl_debug!([S: OwnedPermitSource, F: Future + Send + 'static] RunToCompletionFuture<S, F> |this| {
    acquire: this.acquire, ..
});
