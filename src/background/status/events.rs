//! [`HostEvents`], a stream of a host's changes as they happen.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::host_status::HostPhase;
use super::service_status::ServiceStatus;

/// A change of a host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HostEvent {
    /// The host entered this phase.
    Phase(HostPhase),
    /// The state of a service changed. This is its status after the change.
    Service(Arc<ServiceStatus>),
    /// This many changes were lost, because they were not received in time. The host's status is up to date.
    Missed(u64),
}

/// Receives the changes of a host since [`subscribe`](crate::background::ServiceHost::subscribe) was called.
#[derive(Debug)]
pub struct HostEvents(pub(crate) Receiver<HostEvent>);

impl HostEvents {
    /// Waits for the next change. Returns `None` once the host has ended.
    ///
    /// The latest 1,024 changes are kept for a slow receiver.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    pub async fn recv(&mut self) -> Option<HostEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(HostEvent::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}
