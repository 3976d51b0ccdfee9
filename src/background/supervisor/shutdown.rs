//! [`Supervisor`]: the stop of the host, and the end of its services.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::decisions::{Action, FailedService};
use super::service_slot::{SlotState, StopReason};
use super::state::{HostStop, Supervisor};
use super::timer_queue::after;
use crate::background::control::GenerationPhase;
use crate::background::placement::Placement;
use crate::background::status::{CleanUp, ExitKind, HostPhase, ServiceReport, ServiceState, ShutdownReport, Trigger};
use crate::background::trace;

/// A stop reserves a fifth of its time for clean-up, but no more than this.
const RESERVE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Begins to stop the host, unless it is stopping already. A running server is drained first.
    pub(super) fn begin_stop(&mut self, now: Instant, trigger: Trigger, failed: Option<FailedService>) {
        if self.stop.is_some() {
            return;
        }
        trace::host_stops(&trigger);
        let total = self.timeouts.shutdown;
        let deadline = after(now, total);
        let abort_at = deadline - (total / 5).min(RESERVE);
        // Until the services have started, the server is not polled.
        self.has_server_ended |= !self.has_started;
        let drains = self.has_server && self.phase == HostPhase::Running && trigger != Trigger::ServerEnded;
        self.stop = Some(HostStop {
            trigger,
            forced_by: None,
            began: now,
            abort_at,
            deadline,
            server_cut_off: false,
            is_draining_work: false,
            is_draining_pools: false,
            failed,
        });
        self.decide(Action::DrainServer);
        if drains {
            self.enter_phase(HostPhase::Draining);
            let limit = after(now, self.timeouts.drain).min(abort_at);
            self.set_host_timer(Some(limit));
        } else {
            self.drain_work(now);
        }
    }

    /// Waits for the work that the server has left, if there is any, and then stops the services.
    pub(super) fn drain_work(&mut self, now: Instant) {
        let Some(stop) = self.stop.as_mut().filter(|stop| !stop.is_draining_work) else { return };
        stop.is_draining_work = true;
        let limit = after(now, self.timeouts.drain).min(stop.abort_at);
        let may_leave_work = self.server_settles && self.has_server && self.has_started;
        if !self.has_work && !may_leave_work {
            return self.stop_services(now);
        }
        if self.phase != HostPhase::Draining {
            self.enter_phase(HostPhase::Draining);
        }
        self.decide(Action::DrainWork);
        self.set_host_timer(Some(limit));
    }

    /// Records that the server is dropped because it did not end in time.
    pub(super) fn drop_server(&mut self) {
        trace::server_cut_off();
        if let Some(stop) = &mut self.stop {
            stop.server_cut_off = true;
        }
    }

    pub(super) fn stop_services(&mut self, now: Instant) {
        self.enter_phase(HostPhase::Stopping);
        self.decide(Action::DropServer);
        let deadline = self.stop.as_ref().map(|stop| stop.deadline);
        self.set_host_timer(deadline);
        for id in self.ids() {
            let timer = self.timers.get(id);
            match self.slot(id).state {
                SlotState::Waiting | SlotState::BackingOff | SlotState::Held => {
                    self.end(now, id, ServiceState::Stopped);
                }
                SlotState::Stopping => self.set_timer(id, timer.map(|at| self.clip_to_abort(at))),
                SlotState::CleaningUp | SlotState::Aborting | SlotState::AbortingCleanUp => {
                    self.set_timer(id, timer.map(|at| self.clip_to_deadline(at)));
                }
                SlotState::Starting | SlotState::Running | SlotState::Ended => {}
            }
        }
        for id in self.ids() {
            self.stop_if_unneeded(now, id);
        }
        self.check_stopped(now);
    }

    /// Asks a service to stop if all of its dependents have ended.
    fn stop_if_unneeded(&mut self, now: Instant, id: u32) {
        if self.slot(id).live_dependents == 0 && self.slot(id).can_stop() {
            self.request_stop(now, id, StopReason::HostStops);
        }
    }

    pub(super) fn request_stop(&mut self, now: Instant, id: u32, reason: StopReason) {
        self.slot_mut(id).current.stop_requested = Some((now, reason));
        self.enter_stopping(now, id);
        self.decide(Action::RequestStop(id));
    }

    pub(super) fn enter_stopping(&mut self, now: Instant, id: u32) {
        let slot = self.slot_mut(id);
        slot.current.set_ready(now, false);
        slot.state = SlotState::Stopping;
        let limit = after(now, slot.options.stop_timeout);
        self.set_state(id, ServiceState::Stopping);
        self.set_timer(id, Some(self.clip_to_abort(limit)));
    }

    fn clip_to_abort(&self, at: Instant) -> Instant {
        self.stop.as_ref().filter(|_| self.phase.is_stopping_services()).map_or(at, |stop| at.min(stop.abort_at))
    }

    pub(super) fn clip_to_deadline(&self, at: Instant) -> Instant {
        self.stop.as_ref().map_or(at, |stop| at.min(stop.deadline))
    }

    /// Leaves behind all services that have not ended by the deadline.
    pub(super) fn abandon_all(&mut self, now: Instant) {
        for id in self.ids() {
            let slot = self.slot_mut(id);
            // A service that is aborted in its `run` still reaches its `stop` on its own, whenever that is.
            let phase = match slot.state {
                SlotState::Ended => continue,
                SlotState::CleaningUp | SlotState::AbortingCleanUp => GenerationPhase::Stop,
                _ => GenerationPhase::Run,
            };
            slot.clean_up = if slot.current.has_started { CleanUp::TimedOut } else { CleanUp::NotNeeded };
            let is_blocking = slot.options.placement == Placement::Blocking;
            let has_exit = slot.current.exit.is_some();
            self.decide(Action::RequestStop(id));
            self.decide(Action::Abort(id, phase));
            if !has_exit {
                let kind = if is_blocking { ExitKind::Leaked } else { ExitKind::Aborted };
                self.record_exit(now, id, Err(kind));
            }
            self.on_generation_ended(now, id);
        }
        self.finish(now);
    }

    /// Ends a service for good.
    pub(super) fn end(&mut self, now: Instant, id: u32, state: ServiceState) {
        self.set_decided(id);
        self.set_timer(id, None);
        self.slot_mut(id).state = SlotState::Ended;
        self.set_state(id, state);
        self.live -= 1;
        for &dependency in &self.dependencies(id).after {
            self.slot_mut(dependency).live_dependents -= 1;
            if self.phase == HostPhase::Stopping {
                self.stop_if_unneeded(now, dependency);
            }
        }
        self.check_stopped(now);
    }

    fn check_stopped(&mut self, now: Instant) {
        if self.live > 0 || self.phase != HostPhase::Stopping {
            return;
        }
        let has_pools = self.has_pools;
        let Some(stop) = &mut self.stop else { return };
        if !has_pools {
            self.finish(now);
        } else if !mem::replace(&mut stop.is_draining_pools, true) {
            // The host's timer is set to the deadline.
            self.decide(Action::DrainPools);
        }
    }

    /// Reports the end of the host.
    pub(super) fn finish(&mut self, now: Instant) {
        let Some(stop) = self.stop.as_ref().filter(|_| self.phase == HostPhase::Stopping) else { return };
        let report = ShutdownReport {
            trigger: stop.trigger.clone(),
            forced_by: stop.forced_by.clone(),
            took: now.duration_since(stop.began),
            server_cut_off: stop.server_cut_off,
            services: self.ids().map(|id| self.service_report(id)).collect(),
            // The executor fills this in.
            unfinished: Arc::default(),
        };
        let failed = stop.failed;
        self.set_host_timer(None);
        self.enter_phase(HostPhase::Stopped);
        self.decide(Action::Finish(Box::new(report), failed));
    }

    fn service_report(&self, id: u32) -> ServiceReport {
        let slot = self.slot(id);
        ServiceReport {
            name: Arc::clone(&slot.status.name),
            is_critical: slot.status.is_critical,
            exit: slot.status.last_exit.clone(),
            clean_up: slot.clean_up.clone(),
            took: slot.stop_duration,
            generations: slot.status.generation,
        }
    }
}
