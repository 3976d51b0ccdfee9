//! The tasks of services with a guard: one waits for the permit, and the next one for the loss of its lease.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::background::control::{GenerationEvent, GenerationHandle, HostShared, SupervisorMessage};
use crate::background::service_guard::ServiceGuard;

/// How long a service waits before the next attempt if its guard has not admitted it. The time doubles with each
/// attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Waits for the permit of a service's guard, and sends it to the supervisor.
pub(super) fn wait_for_permit(guard: ServiceGuard, id: u32, host: Arc<HostShared>) -> AbortOnDropHandle<()> {
    let wait = async move {
        let mut pause = FIRST_PAUSE;
        let permit = loop {
            match guard.admit().await {
                Ok(permit) => break permit,
                Err(reason) => host.send(SupervisorMessage::NotAdmitted { id, reason }),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        };
        host.send(SupervisorMessage::Admitted { id, permit });
    };
    AbortOnDropHandle::new(tokio::spawn(wait))
}

/// Reports the loss of a generation's lease. Returns `None` if the generation has no lease.
pub(super) fn watch_lease(handle: &Arc<GenerationHandle>) -> Option<AbortOnDropHandle<()>> {
    let lost = handle.scope.lost()?;
    // The task must not keep the permit, which is in the handle.
    let handle = Arc::downgrade(handle);
    let watch = async move {
        lost.cancelled().await;
        if let Some(handle) = handle.upgrade() {
            handle.send(GenerationEvent::LeaseLost);
        }
    };
    Some(AbortOnDropHandle::new(tokio::spawn(watch)))
}
