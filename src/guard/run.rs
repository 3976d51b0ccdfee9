//! [`Run`] and [`RunToCompletion`]: work that runs inside a guard.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use super::acquire::{Acquire, AcquireOwned};
use super::error::AcquireError;
use super::inside::{Inside, poll_inside};
use super::permit::Permit;
use super::scope::Scope;
use super::shared::SharedGuard;

pin_project! {
    /// Runs a future inside a guard. Made by [`EndpointGuard::run`](super::EndpointGuard::run).
    #[must_use = "futures do nothing unless polled"]
    pub struct Run<'a, F> {
        acquire: Acquire<'a>,
        // Before the permit: what is left of the work is dropped while nobody else is inside. `None` once it has ended.
        #[pin]
        future: Option<F>,
        permit: Option<Permit<'a>>,
    }
}

impl<'a, F> Run<'a, F> {
    pub(super) fn new(acquire: Acquire<'a>, future: F) -> Self {
        Self { acquire, future: Some(future), permit: None }
    }
}

impl<F: Future> Future for Run<'_, F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.permit.is_none() {
            *this.permit = Some(ready!(Pin::new(this.acquire).poll(cx))?);
        }
        let scope = Scope::enter(this.permit.as_ref().expect("taken above").0.guard());
        let future = this.future.as_mut().as_pin_mut().expect("it ends once, and with it the permit");
        let output = ready!(poll_inside(scope, this.permit, future, cx));
        this.future.set(None);
        *this.permit = None;
        Poll::Ready(Ok(output))
    }
}

/// Runs a future inside a guard to its end, in a task of its own if the caller goes away. Made by
/// [`run_to_completion`](super::EndpointGuard::run_to_completion).
#[must_use = "futures do nothing unless polled"]
pub struct RunToCompletion<F: Future + Send + 'static> {
    acquire: AcquireOwned,
    stage: Stage<F>,
}

enum Stage<F> {
    Waiting(Pin<Box<F>>),
    Inside(Inside<F>),
    Done,
}

impl<F: Future + Send + 'static> RunToCompletion<F> {
    pub(super) fn new(guard: SharedGuard, future: F) -> Self {
        Self { acquire: guard.acquire_owned(), stage: Stage::Waiting(Box::pin(future)) }
    }
}

impl<F: Future + Send + 'static> Future for RunToCompletion<F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match mem::replace(&mut this.stage, Stage::Done) {
                Stage::Waiting(work) => match Pin::new(&mut this.acquire).poll(cx) {
                    Poll::Ready(permit) => this.stage = Stage::Inside(Inside::new(work, permit?)),
                    Poll::Pending => {
                        this.stage = Stage::Waiting(work);
                        return Poll::Pending;
                    }
                },
                // A panic leaves it done: there is nothing to go on with.
                Stage::Inside(mut inside) => match inside.poll(cx) {
                    Poll::Ready(output) => return Poll::Ready(Ok(output)),
                    Poll::Pending => {
                        this.stage = Stage::Inside(inside);
                        return Poll::Pending;
                    }
                },
                Stage::Done => panic!("a run_to_completion future is not polled after it completed"),
            }
        }
    }
}

impl<F: Future + Send + 'static> Drop for RunToCompletion<F> {
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
        f.debug_struct("Run").field("acquire", &self.acquire).field("permit", &self.permit).finish_non_exhaustive()
    }
}

impl<F: Future + Send + 'static> fmt::Debug for RunToCompletion<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunToCompletion").field("acquire", &self.acquire).finish_non_exhaustive()
    }
}
