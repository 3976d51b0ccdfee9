//! [`Supervisor`]: the stop of the host, and the end of its services.

use std::mem;
use std::sync::Arc;

use tokio::time::Instant;

use super::decisions::{Action, FailedService};
use super::service_slot::{ServiceValue, SlotState, StopReason};
use super::state::{HostStop, Supervisor};
use super::stop_schedule::StopSchedule;
use super::timeouts::GRACE;
use super::timer_queue::after;
use crate::background::control::GenerationPhase;
use crate::background::placement::Placement;
use crate::background::status::{CleanUp, ExitKind, HostPhase, ServiceReport, ServiceState, ShutdownReport, Trigger};
use crate::background::trace;

impl Supervisor {
    /// Begins to stop the host, unless it is stopping already. A running server is drained first.
    pub(super) fn begin_stop(&mut self, now: Instant, trigger: Trigger, failed: Option<FailedService>) {
        if self.stop.is_some() {
            return;
        }
        trace::host_stops(&trigger);
        let remaining = self.slots.iter().filter(|slot| slot.state != SlotState::Ended);
        let longest = remaining.map(|slot| slot.options.stop_timeout).max().unwrap_or_default();
        let schedule = StopSchedule::new(now, &self.timeouts, longest);
        let refuse_at = schedule.refuse_at;
        // Until the services have started, the server is not polled.
        self.has_server_ended |= !self.has_started;
        let drains = self.has_server && self.phase == HostPhase::Running && trigger != Trigger::ServerEnded;
        self.stop = Some(HostStop {
            trigger,
            forced_by: None,
            began: now,
            schedule,
            is_hurried: false,
            has_refused_waiters: false,
            server_cut_off: false,
            is_draining_work: false,
            awaits_drops: false,
            has_given_up_on_drops: false,
            is_draining_pools: false,
            failed,
        });
        self.decide(Action::DrainServer);
        if drains {
            self.enter_phase(HostPhase::Draining);
            self.set_host_timer(Some(refuse_at));
            self.stop_intake(now);
        } else {
            self.drain_work(now);
        }
    }

    /// Asks the services that bring work in to stop, in their order, while the server drains.
    fn stop_intake(&mut self, now: Instant) {
        for id in self.ids().filter(|id| self.stops_now(*id)).collect::<Vec<_>>() {
            match self.slot(id).state {
                SlotState::Waiting | SlotState::StandingBy | SlotState::BackingOff | SlotState::Held => {
                    self.end(now, id, ServiceState::Stopped);
                }
                _ => self.stop_if_unneeded(now, id),
            }
        }
    }

    /// Returns `true` if the service has to stop, and is not started again.
    pub(super) fn stops_now(&self, id: u32) -> bool {
        let is_draining = self.phase == HostPhase::Draining && self.slot(id).options.is_intake;
        self.phase.is_stopping_services() || is_draining
    }

    /// Waits for the work that the server has left, if there is any, and then stops the services.
    pub(super) fn drain_work(&mut self, now: Instant) {
        let Some(stop) = self.stop.as_mut().filter(|stop| !stop.is_draining_work) else { return };
        stop.is_draining_work = true;
        let limit = after(now, self.timeouts.drain).min(stop.schedule.services_at);
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
        self.set_host_timer(self.stop.as_ref().map(|stop| stop.schedule.hurry_at));
        for id in self.ids() {
            let timer = self.timers.get(id);
            match self.slot(id).state {
                SlotState::Waiting | SlotState::StandingBy | SlotState::BackingOff | SlotState::Held => {
                    self.end(now, id, ServiceState::Stopped);
                }
                SlotState::Stopping => self.set_timer(id, timer.map(|at| self.clip_to_abort(now, at))),
                SlotState::CleaningUp => self.set_timer(id, timer.map(|at| self.clip_to_clean_up(at))),
                SlotState::Aborting | SlotState::AbortingCleanUp => {
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

    /// Asks a service to stop, or drops it if it has ended, once all of its dependents have ended. If there is no time
    /// left to wait for them, does so immediately.
    pub(super) fn stop_if_unneeded(&mut self, now: Instant, id: u32) {
        let is_hurried = self.stop.as_ref().is_some_and(|stop| stop.is_hurried);
        let slot = self.slot(id);
        if slot.live_dependents > 0 && !is_hurried {
            return;
        }
        if slot.can_stop() {
            self.request_stop(now, id, StopReason::HostStops);
        } else if slot.state == SlotState::Ended && slot.value == ServiceValue::Held {
            self.slot_mut(id).value = ServiceValue::Released;
            self.decide(Action::Release(id));
        }
    }

    /// Asks all remaining services to stop, whatever depends on them: there is no time left to wait.
    fn hurry(&mut self, now: Instant) {
        let Some(stop) = &mut self.stop else { return };
        stop.is_hurried = true;
        let deadline = stop.schedule.deadline;
        self.set_host_timer(Some(deadline));
        let late = self.slots.iter().filter(|slot| slot.can_stop()).count();
        if late > 0 {
            trace::host_hurries(late);
        }
        for id in self.ids() {
            self.stop_if_unneeded(now, id);
        }
    }

    /// Handles the host's timer while the services stop.
    pub(super) fn on_stop_timeout(&mut self, now: Instant) {
        let live = self.live;
        let Some(stop) = &mut self.stop else { return };
        if live > 0 && !stop.is_hurried {
            self.hurry(now);
        } else if live == 0 && !stop.is_draining_pools && !mem::replace(&mut stop.has_given_up_on_drops, true) {
            self.check_stopped(now);
        } else {
            self.abandon_all(now);
        }
    }

    /// Records that a service has been dropped.
    pub(super) fn service_dropped(&mut self, now: Instant, id: u32) {
        let slot = self.slot_mut(id);
        let was_awaited = slot.value != ServiceValue::Dropped && !slot.is_left_behind;
        slot.value = ServiceValue::Dropped;
        self.undropped -= usize::from(was_awaited);
        self.check_stopped(now);
    }

    /// Stops waiting for a service that occupies a thread.
    pub(super) fn leave_behind(&mut self, id: u32) {
        let slot = self.slot_mut(id);
        let was_awaited = slot.value != ServiceValue::Dropped && !slot.is_left_behind;
        slot.is_left_behind = true;
        self.undropped -= usize::from(was_awaited);
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
        self.set_timer(id, Some(self.clip_to_abort(now, limit)));
    }

    fn clip_to_abort(&self, now: Instant, at: Instant) -> Instant {
        let stop = self.stop.as_ref().filter(|_| self.phase.is_stopping_services());
        stop.map_or(at, |stop| stop.schedule.abort_at(now, at.saturating_duration_since(now)))
    }

    pub(super) fn clip_to_clean_up(&self, at: Instant) -> Instant {
        self.stop.as_ref().map_or(at, |stop| at.min(stop.schedule.clean_up_by))
    }

    fn clip_to_deadline(&self, at: Instant) -> Instant {
        self.stop.as_ref().map_or(at, |stop| at.min(stop.schedule.deadline))
    }

    /// Leaves behind all services that have not ended by the deadline.
    fn abandon_all(&mut self, now: Instant) {
        for id in self.ids() {
            let slot = self.slot_mut(id);
            // A service that is aborted in its `run` still reaches its `stop` on its own, whenever that is.
            let (phase, clean_up) = match slot.state {
                SlotState::Ended => continue,
                SlotState::CleaningUp | SlotState::AbortingCleanUp => (GenerationPhase::Stop, CleanUp::TimedOut),
                _ if slot.current.has_started => (GenerationPhase::Run, CleanUp::Skipped),
                _ => (GenerationPhase::Run, CleanUp::NotNeeded),
            };
            slot.clean_up = clean_up;
            slot.note_abort(now);
            let is_blocking = slot.options.placement == Placement::Blocking;
            let has_exit = slot.current.exit.is_some();
            self.decide(Action::RequestStop(id));
            self.decide(Action::Abort(id, phase));
            if !has_exit {
                let kind = if is_blocking { ExitKind::Leaked } else { ExitKind::Aborted };
                self.record_exit(now, id, Err(kind));
            }
            self.leave_behind(id);
            self.on_generation_ended(now, id);
        }
        self.finish(now);
    }

    /// Ends a service for good.
    pub(super) fn end(&mut self, now: Instant, id: u32, state: ServiceState) {
        self.set_decided(id);
        self.set_timer(id, None);
        if mem::replace(&mut self.slot_mut(id).state, SlotState::Ended) == SlotState::StandingBy {
            self.slot_mut(id).stood_by = true;
            self.decide(Action::LeaveStandby(id));
        }
        self.set_state(id, state);
        self.live -= 1;
        if self.stops_now(id) {
            self.stop_if_unneeded(now, id);
        }
        for &dependency in &self.dependencies(id).after {
            self.slot_mut(dependency).live_dependents -= 1;
            if self.stops_now(dependency) {
                self.stop_if_unneeded(now, dependency);
            }
        }
        self.check_stopped(now);
    }

    fn check_stopped(&mut self, now: Instant) {
        if self.live > 0 || self.phase != HostPhase::Stopping {
            return;
        }
        let (has_pools, is_undropped) = (self.has_pools, self.undropped > 0);
        let Some(stop) = &mut self.stop else { return };
        let deadline = stop.schedule.deadline;
        if is_undropped && !stop.has_given_up_on_drops {
            if !mem::replace(&mut stop.awaits_drops, true) {
                self.await_drops(now, deadline);
            }
        } else if !has_pools {
            self.finish(now);
        } else if !mem::replace(&mut stop.is_draining_pools, true) {
            self.set_host_timer(Some(deadline));
            self.decide(Action::DrainPools);
        }
    }

    /// Limits how long destructors may take: as long as a `stop` may, and half of the time if pools have to be drained.
    fn await_drops(&mut self, now: Instant, deadline: Instant) {
        let awaited = self.slots.iter().filter(|slot| slot.value != ServiceValue::Dropped && !slot.is_left_behind);
        let longest = awaited.map(|slot| slot.options.cleanup_timeout).max().unwrap_or_default();
        let left = deadline.saturating_duration_since(now);
        let share = if self.has_pools { left / 2 } else { left };
        self.set_host_timer(Some(now + longest.max(GRACE).min(share)));
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
        for slot in &self.slots {
            if slot.value != ServiceValue::Dropped && !slot.is_left_behind {
                trace::service_not_dropped(&slot.status.name);
            }
        }
        self.set_host_timer(None);
        self.enter_phase(HostPhase::Stopped);
        self.decide(Action::Finish(Box::new(report), failed));
    }

    fn service_report(&self, id: u32) -> ServiceReport {
        let slot = self.slot(id);
        ServiceReport {
            name: Arc::clone(&slot.status.name),
            is_critical: slot.status.is_critical,
            exit: slot.status.last_exit.clone().filter(|_| !slot.stood_by),
            clean_up: slot.clean_up.clone(),
            is_dropped: slot.value == ServiceValue::Dropped,
            took: slot.stop_duration,
            generations: slot.status.generation,
        }
    }
}
