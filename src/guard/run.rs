//! [`Run`] and [`RunToCompletion`]: work that runs inside a guard.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use super::EndpointGuard;
use super::acquire::Acquiring;
use super::core::{Gate, OwnedGate};
use super::error::AcquireError;
use super::inside::{Inside, poll_inside};
use super::permit::Held;
use super::shared::SharedGuard;

pin_project! {
    /// Runs a future inside a guard. Made by [`EndpointGuard::run`](super::EndpointGuard::run).
    #[must_use = "futures do nothing unless polled"]
    pub struct Run<'a, F> {
        #[pin]
        running: Running<&'a EndpointGuard, F>,
    }
}

pin_project! {
    /// Work that runs inside the lane behind `G` once its turn has come.
    pub(crate) struct Running<G: Gate, F> {
        acquire: Acquiring<G>,
        // Before the permit: what is left of the work is dropped while nobody else is inside. `None` once it has ended.
        #[pin]
        future: Option<F>,
        permit: Option<Held<G>>,
    }
}

impl<'a, F> Run<'a, F> {
    pub(super) fn new(guard: &'a EndpointGuard, future: F) -> Self {
        Self { running: Running::new(guard, future) }
    }
}

impl<F: Future> Future for Run<'_, F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().running.poll(cx)
    }
}

impl<G: Gate, F> Running<G, F> {
    pub(crate) fn new(gate: G, future: F) -> Self {
        Self { acquire: Acquiring::new(gate), future: Some(future), permit: None }
    }
}

impl<G: Gate, F: Future> Future for Running<G, F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.permit.is_none() {
            *this.permit = Some(ready!(this.acquire.poll(cx))?);
        }
        let future = this.future.as_mut().as_pin_mut().expect("it ends once, and with it the permit");
        let output = ready!(poll_inside(this.permit, future, cx));
        this.future.set(None);
        *this.permit = None;
        Poll::Ready(Ok(output))
    }
}

/// Runs a future inside a guard to its end, in a task of its own if the caller goes away. Made by
/// [`run_to_completion`](super::EndpointGuard::run_to_completion).
#[must_use = "futures do nothing unless polled"]
pub struct RunToCompletion<F: Future + Send + 'static>(Completing<SharedGuard, F>);

/// Work that runs inside the lane behind `G` to its end, whether its caller stays or not.
pub(crate) struct Completing<G: OwnedGate, F: Future + Send + 'static> {
    acquire: Acquiring<G>,
    stage: Stage<F, G>,
}

enum Stage<F, G: OwnedGate> {
    Waiting(Pin<Box<F>>),
    Inside(Inside<F, G>),
    Done,
}

impl<F: Future + Send + 'static> RunToCompletion<F> {
    pub(super) fn new(guard: SharedGuard, future: F) -> Self {
        Self(Completing::new(guard, future))
    }
}

impl<F: Future + Send + 'static> Future for RunToCompletion<F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

impl<G: OwnedGate, F: Future + Send + 'static> Completing<G, F> {
    pub(crate) fn new(gate: G, future: F) -> Self {
        Self { acquire: Acquiring::new(gate), stage: Stage::Waiting(Box::pin(future)) }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<F::Output, AcquireError>> {
        loop {
            match mem::replace(&mut self.stage, Stage::Done) {
                Stage::Waiting(work) => match self.acquire.poll(cx) {
                    Poll::Ready(permit) => self.stage = Stage::Inside(Inside::new(work, permit?)),
                    Poll::Pending => {
                        self.stage = Stage::Waiting(work);
                        return Poll::Pending;
                    }
                },
                // A panic leaves it done: there is nothing to go on with.
                Stage::Inside(mut inside) => match inside.poll(cx) {
                    Poll::Ready(output) => return Poll::Ready(Ok(output)),
                    Poll::Pending => {
                        self.stage = Stage::Inside(inside);
                        return Poll::Pending;
                    }
                },
                Stage::Done => panic!("a run_to_completion future is not polled after it completed"),
            }
        }
    }
}

impl<G: OwnedGate, F: Future + Send + 'static> Drop for Completing<G, F> {
    fn drop(&mut self) {
        if let Stage::Inside(inside) = mem::replace(&mut self.stage, Stage::Done)
            && let Ok(runtime) = Handle::try_current()
            && let Some(detached) = inside.detach(None)
        {
            runtime.spawn(detached);
        }
    }
}

impl<F> fmt::Debug for Run<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.running.fmt_as("Run", f)
    }
}

impl<F: Future + Send + 'static> fmt::Debug for RunToCompletion<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("RunToCompletion", f)
    }
}

impl<G: Gate, F> Running<G, F> {
    pub(crate) fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name).field("acquire", &self.acquire).field("permit", &self.permit).finish_non_exhaustive()
    }
}

impl<G: OwnedGate, F: Future + Send + 'static> Completing<G, F> {
    pub(crate) fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name).field("acquire", &self.acquire).finish_non_exhaustive()
    }
}
