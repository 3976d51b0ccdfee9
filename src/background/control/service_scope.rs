//! [`ServiceScope`], which marks code that runs on behalf of a host's service. A service that waits for its own host to
//! stop would wait for itself, so such a wait is refused. The scope also provides the lease of the service.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio_util::sync::CancellationToken;

use crate::background::service_guard::ServiceLease;
use crate::watch::Label;

thread_local! {
    /// The id of the innermost host whose service runs on this thread, or 0.
    static CURRENT_HOST: Cell<usize> = const { Cell::new(0) };
}

/// The host and the lease of a service.
#[derive(Clone, Debug)]
pub(crate) struct ServiceScope {
    pub(super) host_id: usize,
    /// Names the service in the reports of a watch.
    label: Label,
    pub(super) lease: Option<ServiceLease>,
}

impl ServiceScope {
    pub(super) fn new(host_id: usize, service: &str) -> Self {
        Self { host_id, label: Label::new(format!("service {service}")), lease: None }
    }

    /// Returns a token that is cancelled when the lease is lost.
    pub(crate) fn lost(&self) -> Option<CancellationToken> {
        self.lease.as_ref().map(ServiceLease::lost)
    }

    /// Returns `true` if the lease is lost and the service is about to be dropped. Its code must not continue until
    /// then, for example after a pause of the whole process.
    pub(crate) fn is_revoked(&self) -> bool {
        self.lease.as_ref().is_some_and(ServiceLease::is_revoked)
    }

    /// Runs code of the service, and marks the code as such while it runs.
    pub(crate) fn run<T>(&self, code: impl FnOnce() -> T) -> T {
        let _in_poll = self.label.enter();
        let _lease = self.lease.as_ref().map(ServiceLease::enter);
        let _outer = OuterHost(CURRENT_HOST.replace(self.host_id));
        code()
    }
}

/// Restores the id of the outer host when it is dropped.
struct OuterHost(usize);

impl Drop for OuterHost {
    fn drop(&mut self) {
        CURRENT_HOST.set(self.0);
    }
}

/// Returns `true` if the current thread runs code of a service of that host.
pub(crate) fn is_inside_host(host_id: usize) -> bool {
    CURRENT_HOST.get() == host_id
}

pin_project! {
    /// A future that is polled in the scope of a service.
    pub(super) struct InServiceScope<F> {
        #[pin]
        pub(super) future: F,
        pub(super) scope: ServiceScope,
    }
}

impl<F: Future> Future for InServiceScope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if this.scope.is_revoked() {
            // The task does not continue: it is aborted with its generation.
            return Poll::Pending;
        }
        this.scope.run(|| this.future.poll(cx))
    }
}
