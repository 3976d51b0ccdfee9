//! [`ServiceRunner`], a service of any type as its supervisor uses it.

use std::sync::Arc;

use crate::background::control::GenerationHandle;
use crate::background::placement::Placement;
use crate::background::service::{BoxError, ServiceResult};
use crate::background::status::{CleanUp, ExitKind};

/// Runs the generations of one service.
pub(crate) trait ServiceRunner: Send + Sync {
    /// Returns `true` if the service blocks and needs a thread.
    fn is_blocking(&self) -> bool;

    /// Begins a generation, which reports its events through the handle.
    fn begin(self: Arc<Self>, placement: Placement, handle: Arc<GenerationHandle>);

    /// Calls `stop` on a thread of its own, unless the generation has called it already.
    fn clean_up_elsewhere(self: Arc<Self>, handle: Arc<GenerationHandle>, exit: ExitKind);
}

pub(super) fn failed(error: BoxError) -> ExitKind {
    ExitKind::Failed(error.into())
}

pub(super) fn clean_up_result(result: ServiceResult) -> CleanUp {
    result.map_or_else(|error| CleanUp::Failed(error.into()), |()| CleanUp::Done)
}
