//! [`CallerContext`], what goes with a task to its thread: the span, the subscriber, the runtime.

use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{Dispatch, Span, dispatcher};

/// What a task finds on its thread as it was where it was called for.
#[derive(Debug, Default)]
pub(crate) struct CallerContext {
    /// Only where the caller is in a span that somebody looks at: most of the time nobody does.
    span: Option<Box<(Span, Dispatch)>>,
    /// Where the thread has not entered it already.
    runtime: Option<Handle>,
}

impl CallerContext {
    /// That of the caller.
    pub(crate) fn here(runtime: Option<Handle>) -> Self {
        let span = Span::current();
        let span = (!span.is_none()).then(|| Box::new((span, dispatcher::get_default(Dispatch::clone))));
        Self { span, runtime }
    }

    /// The time of the caller's runtime, which may stand still in tests.
    pub(crate) fn now(&self) -> Instant {
        let _runtime = self.runtime.as_ref().map(Handle::enter);
        Instant::now()
    }

    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _runtime = self.runtime.as_ref().map(Handle::enter);
        match self.span.as_deref() {
            Some((span, dispatch)) => dispatcher::with_default(dispatch, || span.in_scope(work)),
            None => work(),
        }
    }
}
