//! [`HostEvents`], the changes of a host as they happen.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::host_status::HostPhase;
use super::service_status::ServiceStatus;

/// A change of a host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HostEvent {
    /// The host entered a phase.
    Phase(HostPhase),
    /// The state of a service changed: this is its status since then.
    Service(Arc<ServiceStatus>),
    /// So many changes were lost, because nobody took them for too long. What holds now is in the host's status.
    Missed(u64),
}

/// The changes of a host from the moment of [`subscribe`](crate::background::ServiceHost::subscribe) on.
#[derive(Debug)]
pub struct HostEvents(pub(crate) Receiver<HostEvent>);

impl HostEvents {
    /// Waits for the next change. `None`: the host has ended, and there will be no more. The latest 1,024 are kept for who
    /// is slow.
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
