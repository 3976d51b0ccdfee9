//! [`Supervisor`]: what it knows, and the beginning of services.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::timers::{Timers, after};
use super::unit::{Generation, Stage, Unit};
use crate::background::generation::Phase;
use crate::background::status::{
    CleanUp, ExitKind, HostEvent, HostPhase, ServiceState, ServiceStatus, Services, ShutdownReport, Trigger,
};
use crate::background::trace;
use crate::panic::discard;

/// The services of a host, and how far it is with them.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(super) units: Vec<Unit>,
    /// What is published of them.
    pub(super) services: Services,
    pub(super) phase: HostPhase,
    pub(super) since: SystemTime,
    pub(crate) has_started: bool,
    pub(super) limits: Limits,
    pub(super) stop: Option<Stop>,
    pub(super) timers: Timers,
    /// The time of day, as of the last look at the clock.
    pub(super) wall: SystemTime,
    pub(super) actions: Vec<Action>,
    /// How many first starts are not decided yet.
    undecided: usize,
    /// How many services have not ended.
    pub(super) live: usize,
    /// Whether there is a server, which ends before the services stop.
    has_server: bool,
    /// Whether there is something to publish.
    has_changed: bool,
    /// Whether anybody hears the events.
    pub(crate) is_observed: bool,
    pub(super) chance: fn() -> f64,
}

/// How long the phases of a host may take.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) startup: Duration,
    pub(crate) drain: Duration,
    pub(crate) shutdown: Duration,
}

/// A stop that is going on.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) trigger: Trigger,
    pub(super) forced_by: Option<Trigger>,
    pub(super) began: Instant,
    /// When what runs is cut off, so that there is time left for what has to be released.
    pub(super) last_call: Instant,
    pub(super) deadline: Instant,
    pub(super) server_cut_off: bool,
    pub(super) culprit: Option<Culprit>,
}

/// The service that made the host stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Culprit {
    pub(crate) id: u32,
    /// The one that it depends on and that was given up, if that is why.
    pub(crate) dependency: Option<u32>,
}

/// How those are that a service is restarted with.
enum Companions {
    Ready,
    NotReady,
    GivenUp,
}

/// What the shell has to do.
#[derive(Debug)]
pub(crate) enum Action {
    Begin(u32),
    TellToStop(u32),
    CutOff(u32, Phase),
    CleanUpElsewhere(u32, ExitKind),
    Event(HostEvent),
    /// All first starts went well.
    Started,
    /// The stop has begun: the server is told.
    Draining,
    /// The services stop from now on: a server that has not ended is dropped.
    Stopping,
    /// All services have ended, the culprit among them.
    Finished(Box<ShutdownReport>, Option<Culprit>),
}

impl Supervisor {
    pub(crate) fn new(units: Vec<Unit>, services: Services, limits: Limits, chance: fn() -> f64) -> Self {
        Self {
            undecided: units.len(),
            live: units.len(),
            units,
            phase: HostPhase::Built,
            since: SystemTime::now(),
            has_started: false,
            limits,
            stop: None,
            timers: Timers::new(services.len()),
            services,
            wall: SystemTime::now(),
            actions: Vec::new(),
            has_server: false,
            has_changed: false,
            is_observed: false,
            chance,
        }
    }

    pub(crate) fn phase(&self) -> (HostPhase, SystemTime) {
        (self.phase, self.since)
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    pub(crate) fn unit(&self, id: u32) -> &Unit {
        &self.units[id as usize]
    }

    pub(crate) fn next_timer(&mut self) -> Option<Instant> {
        self.timers.next()
    }

    /// What is to be done, in exchange for an empty list, and whether there is something to publish before.
    pub(crate) fn take(&mut self, actions: &mut Vec<Action>) -> bool {
        mem::swap(actions, &mut self.actions);
        mem::take(&mut self.has_changed)
    }

    /// Starts what depends on nothing.
    pub(crate) fn start(&mut self, now: Instant, has_server: bool) {
        if self.phase != HostPhase::Built {
            return;
        }
        self.has_server = has_server;
        self.enter(HostPhase::Starting);
        self.set_host_timer(Some(after(now, self.limits.startup)));
        for id in 0..self.services.len() {
            if self.unit(id).missing == 0 {
                self.begin(now, id);
            }
        }
        self.maybe_started();
    }

    /// Takes down the time of day.
    pub(crate) fn look_at_the_clock(&mut self, wall: SystemTime) {
        self.wall = wall;
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(id) = self.timers.take_due(now) {
            if id == self.timers.host() {
                self.host_is_late(now);
                continue;
            }
            match self.unit(id).stage {
                Stage::Starting => self.start_timed_out(now, id),
                Stage::Running => self.look_for_heartbeat(now, id),
                Stage::Stopping => self.cut_off(now, id),
                Stage::CutOff => self.leak(now, id),
                Stage::CleaningUp => self.cut_off_clean_up(now, id),
                Stage::CleanUpCutOff => {
                    self.units[id as usize].now.is_the_last = true;
                    self.over(now, id);
                }
                Stage::BackingOff => self.begin(now, id),
                Stage::Waiting | Stage::Held | Stage::Ended => {}
            }
        }
        self.maybe_started();
    }

    /// Begins a generation, unless what it is restarted with is not there.
    pub(super) fn begin(&mut self, now: Instant, id: u32) {
        match self.whom_it_restarts_with(id) {
            Companions::Ready => {}
            Companions::NotReady => return self.hold(id),
            Companions::GivenUp => return self.give_up(now, id),
        }
        let unit = &mut self.units[id as usize];
        unit.stage = Stage::Starting;
        unit.now = Generation::beginning(now);
        discard(mem::replace(&mut unit.clean_up, CleanUp::NotNeeded));
        unit.took = None;
        let limit = unit.options.start_timeout;
        self.set_state_and(id, ServiceState::Starting, |status| status.generation += 1);
        self.set_timer(id, Some(after(now, limit)));
        self.actions.push(Action::Begin(id));
    }

    fn whom_it_restarts_with(&self, id: u32) -> Companions {
        let mut all = Companions::Ready;
        for with in self.unit(id).restarts_with() {
            let is_done = self.services.at(*with).state == ServiceState::Completed;
            if self.unit(*with).is_ready() || is_done {
                continue;
            }
            if self.unit(*with).stage == Stage::Ended {
                return Companions::GivenUp;
            }
            all = Companions::NotReady;
        }
        all
    }

    /// It is known how its first start went, or that there will be none.
    pub(super) fn decide(&mut self, id: u32) {
        let unit = &mut self.units[id as usize];
        if !mem::replace(&mut unit.is_decided, true) {
            self.undecided -= 1;
        }
    }

    pub(super) fn maybe_started(&mut self) {
        if self.undecided == 0 && self.phase == HostPhase::Starting {
            self.set_host_timer(None);
            self.has_started = true;
            self.enter(HostPhase::Running);
            self.actions.push(Action::Started);
        }
    }

    pub(super) fn has_server_to_drain(&self) -> bool {
        self.has_server && self.phase == HostPhase::Running
    }

    pub(super) fn enter(&mut self, phase: HostPhase) {
        self.phase = phase;
        self.since = self.wall;
        self.has_changed = true;
        trace::host_phase(phase);
        if self.is_observed {
            self.actions.push(Action::Event(HostEvent::Phase(phase)));
        }
    }

    pub(super) fn set_state(&mut self, id: u32, state: ServiceState) {
        if self.services.at(id).state != state {
            self.set_state_and(id, state, |_| {});
        }
    }

    /// A change costs a copy if the status was published, so what changes together is changed at once.
    pub(super) fn set_state_and(&mut self, id: u32, state: ServiceState, also: impl FnOnce(&mut ServiceStatus)) {
        self.has_changed = true;
        let status = self.services.at_mut(id);
        status.state = state;
        status.since = self.wall;
        also(status);
        if self.is_observed {
            self.actions.push(Action::Event(HostEvent::Service(Arc::new(status.clone()))));
        }
    }

    /// Drops what services have left, value by value.
    pub(crate) fn discard_values(&mut self) {
        for id in 0..self.services.len() {
            let unit = &mut self.units[id as usize];
            discard(mem::replace(&mut unit.clean_up, CleanUp::NotNeeded));
            discard(unit.now.exit.take());
            let status = self.services.at(id);
            if status.last_exit.is_some() || status.last_failure.is_some() {
                let status = self.services.at_mut(id);
                discard(status.last_exit.take());
                discard(status.last_failure.take());
            }
        }
    }

    pub(super) fn set_timer(&mut self, id: u32, at: Option<Instant>) {
        self.timers.set(id, at);
    }

    pub(super) fn set_host_timer(&mut self, at: Option<Instant>) {
        self.timers.set(self.timers.host(), at);
    }

    pub(super) fn name(&self, id: u32) -> &Arc<str> {
        &self.services.at(id).name
    }
}
