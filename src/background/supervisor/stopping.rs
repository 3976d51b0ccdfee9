//! [`Supervisor`]: the stop of one service, and of the host.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::{Action, Culprit, Stop, Supervisor};
use super::timers::after;
use super::unit::{Stage, Why};
use crate::background::generation::Phase;
use crate::background::placement::Placement;
use crate::background::status::{CleanUp, ExitKind, HostPhase, ServiceReport, ServiceState, ShutdownReport, Trigger};
use crate::background::trace;

/// How long what is cut off may take to be dropped while the host stops. It takes no time unless the thread is stuck.
const GRACE: Duration = Duration::from_millis(500);
/// How long a forced stop takes at most.
const FORCED: Duration = Duration::from_millis(50);
/// The part of the time for a stop that is kept for what has to be released: a fifth, and no more than this.
const RESERVE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Has the host stop, unless it does already.
    pub(crate) fn shutdown(&mut self, now: Instant, trigger: Trigger) {
        let is_dropped = trigger == Trigger::Dropped;
        self.begin_stop(now, trigger, None);
        if is_dropped && self.phase == HostPhase::Draining {
            // The server was dropped with it.
            self.stop_services(now);
        }
    }

    pub(super) fn begin_stop(&mut self, now: Instant, trigger: Trigger, culprit: Option<Culprit>) {
        if self.stop.is_some() {
            return;
        }
        trace::host_stops(&trigger);
        let total = self.limits.shutdown;
        let deadline = after(now, total);
        let is_over = trigger == Trigger::ServerEnded;
        let last_call = deadline - (total / 5).min(RESERVE);
        let stop = Stop { trigger, forced_by: None, began: now, last_call, deadline, server_cut_off: false, culprit };
        self.stop = Some(stop);
        self.actions.push(Action::Draining);
        if !is_over && self.has_server_to_drain() {
            self.enter(HostPhase::Draining);
            let limit = after(now, self.limits.drain).min(last_call);
            self.set_host_timer(Some(limit));
        } else {
            self.stop_services(now);
        }
    }

    /// The server has ended.
    pub(crate) fn server_ended(&mut self, now: Instant) {
        if self.phase == HostPhase::Draining {
            self.stop_services(now);
        } else {
            self.begin_stop(now, Trigger::ServerEnded, None);
        }
    }

    /// A phase of the host takes too long.
    pub(super) fn host_is_late(&mut self, now: Instant) {
        match self.phase {
            HostPhase::Starting => {
                // In the order of the start: who is not ready, and not who waits for it.
                let is_late = |id: &u32| self.unit(*id).stage != Stage::Waiting && !self.unit(*id).was_ready;
                let late = (0..self.services.len()).find(is_late);
                let culprit = late.map(|id| Culprit { id, dependency: None });
                self.begin_stop(now, Trigger::StartTimedOut, culprit);
            }
            HostPhase::Draining => {
                self.cut_server_off();
                self.stop_services(now);
            }
            HostPhase::Stopping => self.abandon_all(now),
            HostPhase::Built | HostPhase::Running | HostPhase::Stopped => {}
        }
    }

    fn cut_server_off(&mut self) {
        trace::server_cut_off();
        if let Some(stop) = &mut self.stop {
            stop.server_cut_off = true;
        }
    }

    fn stop_services(&mut self, now: Instant) {
        self.enter(HostPhase::Stopping);
        self.actions.push(Action::Stopping);
        let deadline = self.stop.as_ref().map(|stop| stop.deadline);
        self.set_host_timer(deadline);
        for id in 0..self.services.len() {
            match self.unit(id).stage {
                Stage::Waiting | Stage::BackingOff | Stage::Held => self.end(now, id, ServiceState::Stopped),
                Stage::Stopping => {
                    let sooner = self.timers.get(id).map(|at| self.clip_to_last_call(at));
                    self.set_timer(id, sooner);
                }
                Stage::CleaningUp | Stage::CutOff | Stage::CleanUpCutOff => {
                    let sooner = self.timers.get(id).map(|at| self.clip_to_deadline(at));
                    self.set_timer(id, sooner);
                }
                Stage::Starting | Stage::Running | Stage::Ended => {}
            }
        }
        for id in 0..self.services.len() {
            self.stop_if_free(now, id);
        }
        self.maybe_finished(now);
    }

    /// Tells it to stop, if nobody needs it any more.
    fn stop_if_free(&mut self, now: Instant, id: u32) {
        if self.unit(id).needed_by == 0 && self.unit(id).is_up() {
            self.tell_to_stop(now, id, Why::HostStops);
        }
    }

    pub(super) fn tell_to_stop(&mut self, now: Instant, id: u32, why: Why) {
        let unit = &mut self.units[id as usize];
        unit.now.told = Some((now, why));
        unit.now.set_ready(now, false);
        unit.stage = Stage::Stopping;
        let limit = after(now, unit.options.stop_timeout);
        self.set_state(id, ServiceState::Stopping);
        self.actions.push(Action::TellToStop(id));
        self.set_timer(id, Some(self.clip_to_last_call(limit)));
    }

    /// Its `run` has ended by itself. What is left of it is told to stop, but was not when it ended.
    pub(super) fn await_children(&mut self, now: Instant, id: u32) {
        let unit = &mut self.units[id as usize];
        if unit.stage != Stage::Running {
            return;
        }
        unit.now.set_ready(now, false);
        unit.stage = Stage::Stopping;
        let limit = after(now, unit.options.stop_timeout);
        self.set_state(id, ServiceState::Stopping);
        self.set_timer(id, Some(self.clip_to_last_call(limit)));
    }

    /// It did not stop.
    pub(super) fn cut_off(&mut self, now: Instant, id: u32) {
        let unit = &mut self.units[id as usize];
        if unit.options.placement == Placement::Blocking {
            return self.leak(now, id);
        }
        let phase = if unit.now.has_started { Phase::Run } else { Phase::Start };
        unit.stage = Stage::CutOff;
        trace::cut_off_service(&self.services.at(id).name);
        self.actions.push(Action::CutOff(id, phase));
        let grace = self.grace(now, id);
        self.set_timer(id, Some(grace));
    }

    /// Until when what was cut off may take to be dropped.
    pub(super) fn grace(&self, now: Instant, id: u32) -> Instant {
        match &self.stop {
            Some(stop) => now + GRACE.min(stop.deadline.saturating_duration_since(now) / 2),
            None => after(now, self.unit(id).options.stop_timeout.max(GRACE)),
        }
    }

    fn clip_to_last_call(&self, at: Instant) -> Instant {
        self.stop.as_ref().filter(|_| self.phase >= HostPhase::Stopping).map_or(at, |stop| at.min(stop.last_call))
    }

    pub(super) fn clip_to_deadline(&self, at: Instant) -> Instant {
        self.stop.as_ref().map_or(at, |stop| at.min(stop.deadline))
    }

    pub(super) fn is_forced(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.forced_by.is_some())
    }

    /// Has the host stop now, without an order and without waiting for what blocks.
    pub(crate) fn force(&mut self, now: Instant, trigger: Trigger) {
        self.begin_stop(now, trigger.clone(), None);
        let soon = now + FORCED;
        let Some(stop) = self.stop.as_mut().filter(|stop| stop.forced_by.is_none()) else { return };
        trace::host_is_forced(&trigger);
        stop.forced_by = Some(trigger);
        stop.last_call = stop.last_call.min(now);
        stop.deadline = stop.deadline.min(soon);
        let deadline = stop.deadline;
        if self.phase == HostPhase::Draining {
            self.cut_server_off();
            self.stop_services(now);
        }
        if self.phase != HostPhase::Stopping {
            return;
        }
        self.set_host_timer(Some(deadline));
        for id in 0..self.services.len() {
            if self.unit(id).is_up() {
                self.tell_to_stop(now, id, Why::HostStops);
            }
            match self.unit(id).stage {
                Stage::Stopping => self.cut_off(now, id),
                Stage::CleaningUp | Stage::CutOff | Stage::CleanUpCutOff => self.set_timer(id, Some(deadline)),
                _ => {}
            }
        }
    }

    /// The deadline has come: what has not ended is left behind.
    fn abandon_all(&mut self, now: Instant) {
        for id in 0..self.services.len() {
            let unit = &mut self.units[id as usize];
            // What is cut off in its work comes to its `stop` by itself, whenever it does.
            let phase = match unit.stage {
                Stage::Ended => continue,
                Stage::CleaningUp | Stage::CleanUpCutOff => Phase::Stop,
                _ => Phase::Run,
            };
            unit.clean_up = if unit.now.has_started { CleanUp::TimedOut } else { CleanUp::NotNeeded };
            let is_blocking = unit.options.placement == Placement::Blocking;
            self.actions.push(Action::TellToStop(id));
            self.actions.push(Action::CutOff(id, phase));
            if self.unit(id).now.exit.is_none() {
                let kind = if is_blocking { ExitKind::Leaked } else { ExitKind::Aborted };
                self.note_exit(now, id, Err(kind));
            }
            self.over(now, id);
        }
    }

    /// It has ended for good.
    pub(super) fn end(&mut self, now: Instant, id: u32, state: ServiceState) {
        self.decide(id);
        self.set_timer(id, None);
        self.units[id as usize].stage = Stage::Ended;
        self.set_state(id, state);
        self.live -= 1;
        for index in 0..self.unit(id).after().len() {
            let needed = self.unit(id).after()[index];
            self.units[needed as usize].needed_by -= 1;
            if self.phase == HostPhase::Stopping {
                self.stop_if_free(now, needed);
            }
        }
        self.maybe_finished(now);
    }

    fn maybe_finished(&mut self, now: Instant) {
        if self.live > 0 || self.phase != HostPhase::Stopping {
            return;
        }
        let Some(stop) = self.stop.as_ref() else { return };
        let report = ShutdownReport {
            trigger: stop.trigger.clone(),
            forced_by: stop.forced_by.clone(),
            took: now.duration_since(stop.began),
            server_cut_off: stop.server_cut_off,
            services: (0..self.services.len()).map(|id| self.report_of(id)).collect(),
        };
        let culprit = stop.culprit;
        self.set_host_timer(None);
        self.enter(HostPhase::Stopped);
        self.actions.push(Action::Finished(Box::new(report), culprit));
    }

    fn report_of(&self, id: u32) -> ServiceReport {
        let (unit, status) = (self.unit(id), self.services.at(id));
        ServiceReport {
            name: Arc::clone(&status.name),
            is_critical: status.is_critical,
            exit: status.last_exit.clone(),
            clean_up: unit.clean_up.clone(),
            took: unit.took,
            generations: status.generation,
        }
    }
}
