//! Whether the code that runs on this thread is a service's, and of which host: what would wait for itself is refused.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

thread_local! {
    /// The address of the innermost host, or 0.
    static HOST: Cell<usize> = const { Cell::new(0) };
}

/// Until it is dropped, what runs on this thread is a service's.
pub(super) struct Inside {
    outer: usize,
}

impl Inside {
    pub(super) fn enter(host: usize) -> Self {
        Self { outer: HOST.replace(host) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        HOST.set(self.outer);
    }
}

/// Whether what runs on this thread is a service of that host.
pub(crate) fn is_inside(host: usize) -> bool {
    HOST.get() == host
}

pin_project! {
    /// A task of a service.
    pub(super) struct Child<F> {
        #[pin]
        future: F,
        host: usize,
    }
}

impl<F> Child<F> {
    pub(super) fn new(future: F, host: usize) -> Self {
        Self { future, host }
    }
}

impl<F: Future> Future for Child<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _inside = Inside::enter(*this.host);
        this.future.poll(cx)
    }
}
