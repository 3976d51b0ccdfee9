//! [`Supervisor`]: its state, and the state changes that all events share.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::decisions::{Action, Decisions, FailedService};
use super::service_slot::{Dependencies, ServiceSlot};
use super::stop_schedule::StopSchedule;
use super::timer_queue::TimerQueue;
use crate::background::status::{HostEvent, HostPhase, ServiceState, ServiceStatus, Trigger};
use crate::background::trace;
use crate::panic::discard;

/// The services of a host and their states.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(super) slots: Vec<ServiceSlot>,
    pub(super) phase: HostPhase,
    pub(super) since: SystemTime,
    pub(super) has_started: bool,
    pub(super) timeouts: HostTimeouts,
    pub(super) stop: Option<HostStop>,
    pub(super) timers: TimerQueue,
    /// The time of day when the clocks were last read.
    pub(super) wall: SystemTime,
    pub(super) decisions: Decisions,
    /// How many services have a first start whose result is not known.
    pub(super) undecided: usize,
    /// How many services have not ended.
    pub(super) live: usize,
    /// How many services have not been dropped, without those that are left behind.
    pub(super) undropped: usize,
    /// A server exists, and has to end before the services stop.
    pub(super) has_server: bool,
    pub(super) has_server_ended: bool,
    /// A server that has ended may still leave work, for a moment.
    pub(super) server_settles: bool,
    /// `true` if some work has to end before the services stop: that of guards and flights, or work without a caller.
    pub(super) has_work: bool,
    /// `true` if pools have to be closed after the services.
    pub(super) has_pools: bool,
    /// Returns a random number from 0 to 1, for the jitter of a backoff.
    pub(super) random: fn() -> f64,
}

/// How long the phases of a host may take.
#[derive(Clone, Debug)]
pub(crate) struct HostTimeouts {
    pub(crate) startup: Duration,
    pub(crate) drain: Duration,
    pub(crate) shutdown: Duration,
}

/// The stop of a host.
#[derive(Debug)]
pub(super) struct HostStop {
    pub(super) trigger: Trigger,
    pub(super) forced_by: Option<Trigger>,
    pub(super) began: Instant,
    pub(super) schedule: StopSchedule,
    /// All remaining services were asked to stop.
    pub(super) is_hurried: bool,
    /// The guards and flights are closed, shortly before the server is dropped.
    pub(super) has_refused_waiters: bool,
    pub(super) server_cut_off: bool,
    /// The server has ended, or was dropped, and the host waits for other work.
    pub(super) is_draining_work: bool,
    /// All services have ended, and the host waits until they have been dropped.
    pub(super) awaits_drops: bool,
    /// The destructors of the services took too long.
    pub(super) has_given_up_on_drops: bool,
    /// All services have been dropped, and the host waits for its pools.
    pub(super) is_draining_pools: bool,
    pub(super) failed: Option<FailedService>,
}

impl Supervisor {
    pub(crate) fn new(slots: Vec<ServiceSlot>, timeouts: HostTimeouts, random: fn() -> f64) -> Self {
        Self {
            undecided: slots.len(),
            live: slots.len(),
            undropped: slots.len(),
            timers: TimerQueue::new(slots.len()),
            slots,
            phase: HostPhase::Built,
            since: SystemTime::now(),
            has_started: false,
            timeouts,
            stop: None,
            wall: SystemTime::now(),
            decisions: Decisions::default(),
            has_server: false,
            has_server_ended: false,
            server_settles: false,
            has_work: false,
            has_pools: false,
            random,
        }
    }

    /// Returns the indices of all services. They do not borrow the supervisor.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.slots.len() as u32
    }

    /// Returns the edges of a service. They do not borrow the supervisor.
    pub(super) fn dependencies(&self, id: u32) -> Arc<Dependencies> {
        Arc::clone(&self.slot(id).dependencies)
    }

    pub(super) fn slot(&self, id: u32) -> &ServiceSlot {
        &self.slots[id as usize]
    }

    pub(super) fn slot_mut(&mut self, id: u32) -> &mut ServiceSlot {
        &mut self.slots[id as usize]
    }

    pub(super) fn status(&self, id: u32) -> &ServiceStatus {
        &self.slot(id).status
    }

    pub(super) fn name(&self, id: u32) -> &Arc<str> {
        &self.status(id).name
    }

    pub(super) fn set_timer(&mut self, id: u32, deadline: Option<Instant>) {
        self.timers.set(id, deadline);
    }

    pub(super) fn set_host_timer(&mut self, deadline: Option<Instant>) {
        self.timers.set(self.timers.host(), deadline);
    }

    pub(super) fn decide(&mut self, action: Action) {
        self.decisions.actions.push(action);
    }

    pub(super) fn enter_phase(&mut self, phase: HostPhase) {
        self.phase = phase;
        self.since = self.wall;
        trace::host_phase(phase);
        self.decide(Action::Emit(HostEvent::Phase(phase)));
    }

    /// Returns the status of a service for a change. The change is published.
    pub(super) fn status_mut(&mut self, id: u32) -> &mut ServiceStatus {
        self.decisions.changed.push(id);
        Arc::make_mut(&mut self.slots[id as usize].status)
    }

    /// Sets the state of a service, unless the service is already in that state.
    pub(super) fn set_state(&mut self, id: u32, state: ServiceState) {
        if self.status(id).state != state {
            self.set_state_with(id, state, |_| {});
        }
    }

    /// Sets the state of a service, together with another change to its status that the same event reports.
    pub(super) fn set_state_with(&mut self, id: u32, state: ServiceState, change: impl FnOnce(&mut ServiceStatus)) {
        let since = self.wall;
        let status = self.status_mut(id);
        status.state = state;
        status.since = since;
        change(status);
        let status = Arc::clone(&self.slot(id).status);
        self.decide(Action::Emit(HostEvent::Service(status)));
    }

    /// Records that the result of the first start of a service is known, or that it will never start.
    pub(super) fn set_decided(&mut self, id: u32) {
        if !mem::replace(&mut self.slot_mut(id).is_decided, true) {
            self.undecided -= 1;
        }
    }

    pub(super) fn check_started(&mut self) {
        if self.undecided == 0 && self.phase == HostPhase::Starting {
            self.set_host_timer(None);
            self.has_started = true;
            self.enter_phase(HostPhase::Running);
            self.decide(Action::ReportStarted);
        }
    }

    /// Drops what the services have left, value by value: two destructors that panic at the same time would abort the
    /// process.
    pub(super) fn discard_values(&mut self) {
        for ServiceSlot { status, clean_up, current, permit, .. } in self.slots.drain(..) {
            discard(permit);
            discard(clean_up);
            discard(current);
            discard(status);
        }
    }
}
