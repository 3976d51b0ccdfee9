//! What a host reports: its current status ([`HostStatus`]), each change ([`HostEvents`]), and its end
//! ([`ShutdownReport`]).

mod events;
mod exit;
mod heartbeat;
mod host_status;
mod managed_list;
mod report;
mod service_status;
mod tick_source;
mod tick_status;

pub use events::{HostEvent, HostEvents};
pub use exit::{CleanUp, Exit, ExitKind, SharedError, TimeLimit};
pub(crate) use heartbeat::Heartbeat;
pub use host_status::{HostPhase, HostStatus};
pub(crate) use managed_list::ManagedList;
pub use report::{ServiceReport, ShutdownReport, Trigger, UnfinishedWork};
pub use service_status::{ServiceState, ServiceStatus};
pub(crate) use tick_source::TickSource;
pub use tick_status::TickStatus;
