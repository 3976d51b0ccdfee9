//! [`RefusalHook`], the user's function that changes refusals.

use std::sync::Arc;

use super::{Refusal, RequestHead};

/// Changes a refusal before it is sent. The default leaves it unchanged.
#[derive(Clone, Default)]
pub(crate) struct RefusalHook(Option<Arc<ChangeRefusal>>);

type ChangeRefusal = dyn Fn(Refusal, &RequestHead<'_>) -> Refusal + Send + Sync;

impl RefusalHook {
    pub(crate) fn new(change: impl Fn(Refusal, &RequestHead<'_>) -> Refusal + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(change)))
    }

    /// Returns `true` if the hook needs the head of a request, which then must be kept.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn apply(&self, refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
        match &self.0 {
            Some(change) => change(refusal, head),
            None => refusal,
        }
    }
}
