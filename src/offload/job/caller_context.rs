//! [`CallerContext`], the context that work inherits from the code that creates it: the span, the subscriber, the
//! runtime, and the scopes of the guards that the code is inside.

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::caller_trace::CallerTrace;
use crate::scope::CallerScopes;

/// The creator's context, which is entered around the work. Clones share the record of the scopes.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerContext {
    trace: CallerTrace,
    scopes: CallerScopes,
    /// Set only if the thread has not already entered the runtime.
    runtime: Option<Handle>,
}

impl CallerContext {
    /// Captures the span, the subscriber and the scopes of the current code, which creates work.
    pub(crate) fn capture() -> Self {
        Self { trace: CallerTrace::capture(), scopes: CallerScopes::capture(), runtime: None }
    }

    /// Returns the context of work whose caller is in another process, inside these scopes.
    #[cfg(feature = "process")]
    pub(crate) fn inside(scopes: CallerScopes) -> Self {
        Self { scopes, ..Self::default() }
    }

    /// Returns the context of one of several pieces of work that are created together and started one after the other.
    pub(crate) fn for_one_of_many(&self) -> Self {
        Self { trace: self.trace.clone(), scopes: self.scopes.for_one_of_many(), runtime: None }
    }

    /// Adds what the current code brings, which starts the work in `runtime`: the scopes, since this code waits for the
    /// work.
    pub(crate) fn started_in(self, runtime: Option<Handle>) -> Self {
        Self { scopes: self.scopes.and_current(), runtime, ..self }
    }

    /// Returns the time of the caller's runtime, whose clock may be paused in tests.
    pub(crate) fn now(&self) -> Instant {
        self.enter_runtime(Instant::now)
    }

    pub(crate) fn enter_runtime<T>(&self, run: impl FnOnce() -> T) -> T {
        let _runtime = self.runtime.as_ref().map(Handle::enter);
        run()
    }

    /// Ends the inherited scopes, because the caller no longer waits for the work.
    pub(crate) fn release_scopes(&self) {
        self.scopes.release();
    }

    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _scopes = self.scopes.enter();
        self.enter_runtime(|| self.trace.enter(work))
    }
}
