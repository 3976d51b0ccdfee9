//! [`RefusalHook`], the user's function that changes refusals.

use std::sync::Arc;

use super::Refusal;
use crate::web::RequestHead;

/// Changes a refusal before it is sent. The default leaves it unchanged. A refusal of a gRPC call is sent as a gRPC
/// status.
#[derive(Clone, Default)]
pub(crate) struct RefusalHook(Option<Arc<ChangeRefusal>>);

type ChangeRefusal = dyn Fn(Refusal, &RequestHead<'_>) -> Refusal + Send + Sync;

impl RefusalHook {
    pub(in crate::web) fn new(change: impl Fn(Refusal, &RequestHead<'_>) -> Refusal + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(change)))
    }

    /// Returns `true` if the hook needs the head of a request, which then must be kept.
    pub(in crate::web) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    pub(in crate::web) fn apply(&self, refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
        let refusal = match &self.0 {
            Some(change) => change(refusal, head),
            None => refusal,
        };
        refusal.for_client(head)
    }
}
