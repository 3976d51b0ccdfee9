//! Waking: [`wake_all`] calls several wakers, and [`Contained`] keeps the panic of a waker from propagating to the code
//! that calls the waker.
//!
//! A waker is user code, which may panic.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use crate::panic::{FirstPanic, catch};

/// Calls every waker, even if an earlier one panics, and then propagates the first panic, as [`FirstPanic`] does.
#[inline]
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    let mut wakers = wakers.into_iter();
    let Some(first) = wakers.next() else { return };
    match wakers.next() {
        // The common case: a panic of the only waker propagates without help.
        None if !thread::panicking() => first.wake(),
        second => wake_each([first].into_iter().chain(second).chain(wakers)),
    }
}

fn wake_each(wakers: impl Iterator<Item = Waker>) {
    let mut panics = FirstPanic::default();
    for waker in wakers {
        panics.run(|| waker.wake());
    }
    panics.propagate();
}

/// Calls a waker and catches its panic, which the panic hook has already reported.
pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        let _ = catch(|| waker.wake());
    }
}

/// Polls `future` with a waker that does not panic, even if the caller's waker panics.
///
/// If a waker panics, tokio's `Notify` drops the remaining wakers without waking them, and their tasks would never run.
pub(crate) struct Contained<F>(pub(crate) F);

impl<F: Future + Unpin> Future for Contained<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::new(ContainedWaker(cx.waker().clone())));
        Pin::new(&mut self.0).poll(&mut Context::from_waker(&waker))
    }
}

struct ContainedWaker(Waker);

impl Wake for ContainedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let _ = catch(|| self.0.wake_by_ref());
    }
}
