//! [`RefusalHook`], the user's function that changes refusals.

use std::sync::Arc;

use super::Refusal;

/// Changes a refusal before it is sent. The default leaves it unchanged.
#[derive(Clone, Default)]
pub(crate) struct RefusalHook(Option<Arc<dyn Fn(Refusal) -> Refusal + Send + Sync>>);

impl RefusalHook {
    pub(crate) fn new(change: impl Fn(Refusal) -> Refusal + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(change)))
    }

    pub(crate) fn apply(&self, refusal: Refusal) -> Refusal {
        match &self.0 {
            Some(change) => change(refusal),
            None => refusal,
        }
    }
}
