//! [`DropSignal`], which reports that a service was dropped.

use std::sync::Arc;

use super::host_shared::HostShared;
use super::message::SupervisorMessage;

/// Reports to the supervisor, when it is dropped, that a service was dropped. The runner of the service drops it after
/// the service, and a thread of the service after its runtime.
#[derive(Debug)]
pub(crate) struct DropSignal {
    id: u32,
    host: Arc<HostShared>,
}

impl DropSignal {
    pub(crate) fn new(id: u32, host: Arc<HostShared>) -> Self {
        Self { id, host }
    }
}

impl Drop for DropSignal {
    fn drop(&mut self) {
        self.host.send(SupervisorMessage::ServiceDropped(self.id));
    }
}
