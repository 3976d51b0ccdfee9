//! [`ServiceSlot`], the supervisor's entry for one service.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::background::restart::RestartHistory;
use crate::background::service_guard::ServicePermit;
use crate::background::spec::ServiceOptions;
use crate::background::status::{CleanUp, ExitKind, ServiceStatus};

/// One service: how it was configured, and its state.
#[derive(Debug)]
pub(crate) struct ServiceSlot {
    pub(super) options: ServiceOptions,
    pub(super) dependencies: Arc<Dependencies>,
    /// The published status of the service. A change copies the status if the published one is shared.
    pub(super) status: Arc<ServiceStatus>,
    pub(super) state: SlotState,
    pub(super) failures: RestartHistory,
    /// How many of the service's dependencies have never been ready.
    pub(super) unmet_dependencies: u32,
    /// How many of the service's dependents have not ended.
    pub(super) live_dependents: u32,
    pub(super) was_ready: bool,
    /// The result of the first start is known, or the service will never start.
    pub(super) is_decided: bool,
    /// The result of the last `stop`.
    pub(super) clean_up: CleanUp,
    /// The service stood by when it ended, so that its last exit is no longer of interest.
    pub(super) stood_by: bool,
    /// The time from the last stop request to the end.
    pub(super) stop_duration: Option<Duration>,
    pub(super) current: CurrentGeneration,
    /// The permit of the guard that has admitted the service, until the generation begins.
    pub(super) permit: Option<ServicePermit>,
    pub(super) value: ServiceValue,
    /// The service still occupies a thread, so the host cannot wait until it is dropped.
    pub(super) is_left_behind: bool,
}

/// The service itself, which the host owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceValue {
    Held,
    /// The host has released it. It is dropped once its destructor has run, and its last generation has released it.
    Released,
    Dropped,
}

/// The edges of a service in the dependency graph, as indices of services.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    /// The services that this one starts after.
    pub(crate) after: Vec<u32>,
    /// The services that start after this one.
    pub(crate) dependents: Vec<u32>,
    /// The services that this one restarts with, which are among `after`.
    pub(crate) restarts_with: Vec<u32>,
    /// The services that restart with this one.
    pub(crate) restart_dependents: Vec<u32>,
}

/// The state of a service. See the diagram in the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The service waits for the host to start, or for its dependencies.
    Waiting,
    /// The service waits for the permit of its guard.
    StandingBy,
    Starting,
    Running,
    /// The service was asked to stop.
    Stopping,
    /// The service did not stop in time, and its `start` or `run` is being dropped.
    Aborting,
    CleaningUp,
    /// The service's `stop` did not end in time, and is being dropped.
    AbortingCleanUp,
    BackingOff,
    /// The service waits until the services that it restarts with are ready again.
    Held,
    Ended,
}

/// Why a generation was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    HostStops,
    StartTimedOut,
    NoHeartbeat,
    LeaseLost,
    /// A service that this one restarts with is restarted.
    DependencyRestarts,
    /// The host gave up on a service that this one restarts with.
    DependencyGivenUp,
}

/// The current or last generation of a service.
#[derive(Debug)]
pub(super) struct CurrentGeneration {
    pub(super) began: Instant,
    /// The generation's `start` returned `Ok`.
    pub(super) has_started: bool,
    pub(super) ready_since: Option<Instant>,
    /// How long the generation was ready before `ready_since`.
    pub(super) was_ready_for: Duration,
    pub(super) stop_requested: Option<(Instant, StopReason)>,
    /// How long the generation had to stop, if it was aborted before its `stop_timeout` was over.
    pub(super) cut_short: Option<Duration>,
    /// How the generation's work ended, and when.
    pub(super) exit: Option<(ExitKind, Instant)>,
    /// No other generation can follow: the thread of this one may still be working, or its runtime is gone.
    pub(super) is_last: bool,
}

impl ServiceSlot {
    pub(crate) fn new(
        options: ServiceOptions,
        dependencies: Dependencies,
        status: ServiceStatus,
        now: Instant,
    ) -> Self {
        Self {
            options,
            unmet_dependencies: dependencies.after.len() as u32,
            live_dependents: dependencies.dependents.len() as u32,
            dependencies: Arc::new(dependencies),
            status: Arc::new(status),
            state: SlotState::Waiting,
            failures: RestartHistory::default(),
            was_ready: false,
            is_decided: false,
            clean_up: CleanUp::NotNeeded,
            stood_by: false,
            stop_duration: None,
            current: CurrentGeneration::new(now),
            permit: None,
            value: ServiceValue::Held,
            is_left_behind: false,
        }
    }

    pub(crate) fn status(&self) -> Arc<ServiceStatus> {
        Arc::clone(&self.status)
    }

    /// Returns `true` if the service has a generation that can be asked to stop.
    pub(super) fn can_stop(&self) -> bool {
        matches!(self.state, SlotState::Starting | SlotState::Running)
    }

    pub(super) fn has_generation(&self) -> bool {
        use SlotState::{BackingOff, Ended, Held, StandingBy, Waiting};
        !matches!(self.state, Waiting | StandingBy | BackingOff | Held | Ended)
    }

    /// Notes that the generation is aborted, and how long it had if that is less than its `stop_timeout`.
    pub(super) fn note_abort(&mut self, now: Instant) {
        let had = self.current.stop_requested.map_or(Duration::ZERO, |(requested, _)| now.duration_since(requested));
        self.current.cut_short = (had < self.options.stop_timeout).then_some(had);
    }

    pub(super) fn is_ready(&self) -> bool {
        let is_ready = self.state == SlotState::Running && self.current.ready_since.is_some();
        is_ready || self.state == SlotState::StandingBy
    }

    /// Returns `true` if the generation was ready for so long that a failure begins a new streak of failures.
    pub(super) fn is_stable(&self, now: Instant) -> bool {
        let CurrentGeneration { ready_since, was_ready_for, .. } = self.current;
        let ready_for = was_ready_for + ready_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        ready_for >= self.options.stable_after
    }
}

impl CurrentGeneration {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            has_started: false,
            ready_since: None,
            was_ready_for: Duration::ZERO,
            stop_requested: None,
            cut_short: None,
            exit: None,
            is_last: false,
        }
    }

    pub(super) fn set_ready(&mut self, now: Instant, is_ready: bool) {
        if is_ready {
            self.ready_since.get_or_insert(now);
        } else if let Some(since) = self.ready_since.take() {
            self.was_ready_for += now.duration_since(since);
        }
    }

    pub(super) fn stop_reason(&self) -> Option<StopReason> {
        self.stop_requested.map(|(_, reason)| reason)
    }
}
