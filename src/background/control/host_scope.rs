//! [`HostScope`], which marks code that runs on behalf of a host's service. A service that waits for its own host to
//! stop would wait for itself, so such a wait is refused.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

thread_local! {
    /// The id of the innermost host whose service runs on this thread, or 0.
    static CURRENT_HOST: Cell<usize> = const { Cell::new(0) };
}

/// Marks the code on this thread as a service's until the scope is dropped.
pub(crate) struct HostScope {
    outer: usize,
}

impl HostScope {
    pub(crate) fn enter(host_id: usize) -> Self {
        Self { outer: CURRENT_HOST.replace(host_id) }
    }
}

impl Drop for HostScope {
    fn drop(&mut self) {
        CURRENT_HOST.set(self.outer);
    }
}

/// Returns `true` if the current thread runs code of a service of that host.
pub(crate) fn is_inside_host(host_id: usize) -> bool {
    CURRENT_HOST.get() == host_id
}

pin_project! {
    /// A future that is polled in the scope of a host.
    pub(super) struct InHostScope<F> {
        #[pin]
        pub(super) future: F,
        pub(super) host_id: usize,
    }
}

impl<F: Future> Future for InHostScope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _scope = HostScope::enter(*this.host_id);
        this.future.poll(cx)
    }
}
