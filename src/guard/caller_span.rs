//! [`CallerSpan`], the tracing span of a caller whose work may go on without it.

use std::sync::Arc;

use tracing::Span;
use tracing::level_filters::LevelFilter;

use crate::panic::catch;

/// The span of a caller, or none. Shared, because spans are large, and most work has none.
#[derive(Clone, Default)]
pub(super) struct CallerSpan(Option<Arc<Span>>);

impl CallerSpan {
    /// Returns the span that the caller is in. Does not allocate unless there is one.
    pub(super) fn current() -> Self {
        if LevelFilter::current() == LevelFilter::OFF { Self(None) } else { Self::of_subscriber() }
    }

    #[cold]
    fn of_subscriber() -> Self {
        // A panic of the tracing subscriber must not lose the work.
        Self(catch(Span::current).ok().filter(|span| !span.is_none()).map(Arc::new))
    }

    /// Runs `f` in the span.
    pub(super) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        let _entered = self.0.as_ref().map(|span| span.enter());
        f()
    }
}
