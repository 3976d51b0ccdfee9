//! [`SupervisorMessage`], what arrives in a supervisor's inbox.

use std::sync::Arc;

use crate::background::service_guard::ServicePermit;
use crate::background::status::{CleanUp, ExitKind, Trigger};

/// A message to the supervisor of a host.
#[derive(Debug)]
pub(crate) enum SupervisorMessage {
    /// Something happened in a generation of the service with this index.
    Generation { id: u32, generation: u64, event: GenerationEvent },
    /// The guard of the service with this index has admitted it.
    Admitted { id: u32, permit: ServicePermit },
    /// The guard of the service with this index has not admitted it, for this reason. The attempt is repeated.
    NotAdmitted { id: u32, reason: Arc<str> },
    /// The host has to stop.
    Shutdown(Trigger),
    /// The host has to stop without waiting for anything.
    ForceShutdown(Trigger),
    /// The server has ended.
    ServerEnded,
    /// The service with this index has been dropped.
    ServiceDropped(u32),
}

/// What a generation reports to its supervisor.
#[derive(Debug)]
pub(crate) enum GenerationEvent {
    /// `start` returned `Ok`.
    Started,
    /// `start` did not return `Ok`, which ends the generation.
    StartFailed(ExitKind),
    /// `run` has ended. Its child tasks were asked to stop and have not ended yet.
    AwaitsChildTasks,
    /// `run` and its child tasks have ended.
    RunEnded(PhaseResult),
    /// `stop` has ended, which ends the generation.
    CleanedUp(CleanUp),
    /// The [`ServiceHealth`] changed.
    HealthChanged,
    /// The lease of the generation is lost.
    LeaseLost,
    /// The generation was dropped before its end: its runtime is gone. Its `stop` was called if it is lost in there.
    Lost { in_stop: bool },
}

/// How a phase ended. `Ok` means completed or stopped; the supervisor knows which of the two.
pub(crate) type PhaseResult = Result<(), ExitKind>;

/// The parts of a generation, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum GenerationPhase {
    Start = 1,
    Run,
    Stop,
}

/// The health that a running service reports of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceHealth {
    pub(crate) ready: bool,
    pub(crate) degraded: bool,
    pub(crate) reason: Option<Arc<str>>,
}
