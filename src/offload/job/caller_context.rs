//! [`CallerContext`], the context that a task inherits from its caller: the span, the subscriber, the runtime, and the
//! scopes of the guards that the caller is inside.

use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{Dispatch, Span, dispatcher};

use crate::scope::CallerScopes;

/// The caller's context, which is entered around the task.
#[derive(Debug, Default)]
pub(crate) struct CallerContext {
    /// Set only if the caller is in a span that a subscriber has enabled, which is rare.
    span: Option<Box<(Span, Dispatch)>>,
    /// Set only if the thread has not already entered the runtime.
    runtime: Option<Handle>,
    scopes: CallerScopes,
}

impl CallerContext {
    /// Captures the span, the subscriber and the scopes of the current thread.
    pub(crate) fn capture(runtime: Option<Handle>) -> Self {
        let span = Span::current();
        let span = (!span.is_none()).then(|| Box::new((span, dispatcher::get_default(Dispatch::clone))));
        Self { span, runtime, scopes: CallerScopes::capture() }
    }

    /// Returns the time of the caller's runtime, whose clock may be paused in tests.
    pub(crate) fn now(&self) -> Instant {
        let _runtime = self.runtime.as_ref().map(Handle::enter);
        Instant::now()
    }

    /// Ends the inherited scopes, because the caller no longer waits for the task.
    pub(crate) fn release_scopes(&self) {
        self.scopes.release();
    }

    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _scopes = self.scopes.enter();
        let _runtime = self.runtime.as_ref().map(Handle::enter);
        match self.span.as_deref() {
            Some((span, dispatch)) => dispatcher::with_default(dispatch, || span.in_scope(work)),
            None => work(),
        }
    }
}
