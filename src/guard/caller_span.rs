//! [`CallerSpan`], the tracing span of a caller, in which the work may continue without the caller.

use std::sync::Arc;

use tracing::Span;
use tracing::level_filters::LevelFilter;

use crate::panic::catch;

/// The span of a caller, or `None` without a span. The span is in an `Arc`, because spans are large and most work has
/// no span.
#[derive(Clone, Default)]
pub(super) struct CallerSpan(Option<Arc<Span>>);

impl CallerSpan {
    /// Returns the span that the caller is in. Allocates only if the caller is in a span.
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
