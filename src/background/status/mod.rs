//! What a host tells of itself: now ([`HostStatus`]), as it changes ([`HostEvents`]), and at its end ([`ShutdownReport`]).

mod events;
mod exit;
mod host_status;
mod pulse;
mod report;
mod service_status;

pub use events::{HostEvent, HostEvents};
pub(crate) use exit::ErrorChain;
pub use exit::{CleanUp, Exit, ExitKind, SharedError, TimeLimit};
pub use host_status::{HostPhase, HostStatus};
pub(crate) use host_status::{Lag, Services};
pub(crate) use pulse::Pulse;
pub use report::{ServiceReport, ShutdownReport, Trigger};
pub(crate) use service_status::TickSource;
pub use service_status::{ServiceState, ServiceStatus};
