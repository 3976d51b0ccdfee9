//! [`Decisions`], what the supervisor has decided and the shell has to execute.

use crate::background::control::GenerationPhase;
use crate::background::status::{ExitKind, HostEvent, ShutdownReport};

/// The decisions since the last time they were taken.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// The services whose status changed. It is published before any action is executed.
    pub(super) changed: Vec<u32>,
    pub(super) actions: Vec<Action>,
}

/// One thing that the shell has to do.
#[derive(Debug)]
pub(super) enum Action {
    /// Wait for the permit of the service's guard.
    StandBy(u32),
    /// Stop waiting for the permit.
    LeaveStandby(u32),
    /// The generation has ended: release its permit.
    ReleasePermit(u32),
    /// The generation has left a thread behind: its permit is released when the thread ends.
    LeavePermit(u32),
    BeginGeneration(u32),
    RequestStop(u32),
    /// Drop the generation in this phase.
    Abort(u32, GenerationPhase),
    /// Call `stop` on another thread.
    CleanUpElsewhere(u32, ExitKind),
    /// Drop the service.
    Release(u32),
    /// Send an event to the subscribers.
    Emit(HostEvent),
    /// Report that all first starts succeeded.
    ReportStarted,
    /// The stop has begun: ask the server to end.
    DrainServer,
    /// The server's time is almost up: close the guards and flights, so that requests that wait get a response.
    RefuseWaiters,
    /// The server has ended, or is dropped now. Close the guards and flights, and wait for work without a caller.
    DrainWork,
    /// The services stop from now on: drop the server if it has not ended.
    DropServer,
    /// The services have stopped: close what they needed, and wait for it.
    DrainPools,
    /// All services have ended. The second value names the service that made the host stop, if there is one.
    Finish(Box<ShutdownReport>, Option<FailedService>),
}

/// The service that made the host stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedService {
    pub(super) id: u32,
    /// The dependency that the host gave up on, if that is the reason.
    pub(super) dependency: Option<u32>,
}
