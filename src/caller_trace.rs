//! [`CallerTrace`], the tracing span and the subscriber that work takes along to another thread or task.

use std::fmt::{self, Write};
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Span, dispatcher};

use crate::panic::catch;

/// The span of a caller, and its subscriber if that is set for a scope only. Clones share one state: spans are large,
/// and most work has none.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerTrace(Option<Arc<TraceParts>>);

#[derive(Debug)]
struct TraceParts {
    /// May be disabled.
    span: Span,
    /// `None` if the subscriber is the one of the whole process, which every thread has.
    dispatch: Option<Dispatch>,
}

impl CallerTrace {
    /// Captures the span and the subscriber of the current code. Does not allocate if there is neither a span nor a
    /// subscriber for a scope, and costs one load from memory if there is no subscriber at all.
    #[inline]
    pub(crate) fn capture() -> Self {
        if LevelFilter::current() == LevelFilter::OFF { Self(None) } else { Self::of_subscriber() }
    }

    #[cold]
    fn of_subscriber() -> Self {
        // A panic of the subscriber must not lose the work.
        let parts = catch(|| TraceParts { span: Span::current(), dispatch: dispatcher::get_default(of_scope) }).ok();
        Self(parts.filter(|parts| !parts.span.is_none() || parts.dispatch.is_some()).map(Arc::new))
    }

    /// Runs `work` in the span, and with the subscriber.
    #[inline]
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        match self.0.as_deref() {
            None => work(),
            Some(TraceParts { span, dispatch: None }) => span.in_scope(work),
            Some(TraceParts { span, dispatch: Some(dispatch) }) => {
                dispatcher::with_default(dispatch, || span.in_scope(work))
            }
        }
    }
}

/// Returns the dispatcher if it is set for a scope only. Setting the one of the whole process for a scope too would be
/// harmless, but while any thread has a dispatcher for a scope, every event and span of the process takes longer.
fn of_scope(dispatch: &Dispatch) -> Option<Dispatch> {
    // `Dispatch::none()` counts as global, although a scope may have been silenced with it.
    let is_of_process = is_global(dispatch) && !dispatch.is::<NoSubscriber>();
    (!is_of_process).then(|| dispatch.clone())
}

/// Returns `true` if the dispatcher is global. Only its `Debug` output shows that. Should the output change, all
/// dispatchers are carried, which is slower.
fn is_global(dispatch: &Dispatch) -> bool {
    /// Reads the start of the output, and refuses the rest.
    struct Start(bool);
    impl Write for Start {
        fn write_str(&mut self, output: &str) -> fmt::Result {
            self.0 = output.starts_with("Dispatch::Global");
            Err(fmt::Error)
        }
    }
    let mut start = Start(false);
    let _stopped = write!(start, "{dispatch:?}");
    start.0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn dispatchers_of_the_process_and_of_scopes_are_distinguished() {
        assert!(is_global(&Dispatch::none()));
        assert!(!is_global(&Dispatch::new(NoSubscriber::new())));
    }

    #[test]
    fn scope_that_is_silenced_is_carried() {
        assert!(of_scope(&Dispatch::none()).is_some());
    }
}
