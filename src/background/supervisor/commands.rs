//! [`Supervisor`]: the commands of the host and its handles.

use tokio::time::Instant;

use super::service_slot::SlotState;
use super::state::Supervisor;
use super::timer_queue::after;
use crate::background::status::{HostPhase, Trigger};
use crate::background::trace;

impl Supervisor {
    /// Starts the services that depend on no other.
    pub(super) fn start(&mut self, now: Instant, has_server: bool) {
        if self.phase != HostPhase::Built {
            return;
        }
        self.has_server = has_server;
        self.enter_phase(HostPhase::Starting);
        self.set_host_timer(Some(after(now, self.timeouts.startup)));
        for id in self.ids() {
            if self.slot(id).unmet_dependencies == 0 {
                self.begin(now, id);
            }
        }
        self.check_started();
    }

    /// Stops the host, unless it is stopping already.
    pub(super) fn shutdown(&mut self, now: Instant, trigger: Trigger) {
        let is_dropped = trigger == Trigger::Dropped;
        self.begin_stop(now, trigger, None);
        if is_dropped && self.phase == HostPhase::Draining {
            // The server was dropped together with the host.
            self.stop_services(now);
        }
    }

    /// Drains the other work, since the server has ended.
    pub(super) fn server_ended(&mut self, now: Instant) {
        self.has_server_ended = true;
        if self.phase == HostPhase::Draining {
            self.drain_work(now);
        } else {
            self.begin_stop(now, Trigger::ServerEnded, None);
        }
    }

    /// Returns `true` while the host waits for work or for its pools, and for nothing else.
    pub(super) fn is_draining(&self) -> bool {
        let is_server_gone = !self.has_server || self.has_server_ended;
        self.stop.as_ref().is_some_and(|stop| match self.phase {
            HostPhase::Draining => stop.is_draining_work && is_server_gone,
            HostPhase::Stopping => stop.is_draining_pools,
            _ => false,
        })
    }

    /// Continues the stop, since the work or the pools that the host waited for are drained.
    pub(super) fn drained(&mut self, now: Instant) {
        match self.phase {
            HostPhase::Draining => self.stop_services(now),
            HostPhase::Stopping => self.finish(now),
            HostPhase::Built | HostPhase::Starting | HostPhase::Running | HostPhase::Stopped => {}
        }
    }

    /// Stops the host immediately, in any order and without waiting for blocked threads.
    pub(super) fn force_shutdown(&mut self, now: Instant, trigger: Trigger) {
        self.begin_stop(now, trigger.clone(), None);
        let Some(stop) = self.stop.as_mut().filter(|stop| stop.forced_by.is_none()) else { return };
        trace::host_is_forced(&trigger);
        stop.forced_by = Some(trigger);
        stop.schedule.force(now);
        stop.is_hurried = true;
        let (clean_up_by, deadline) = (stop.schedule.clean_up_by, stop.schedule.deadline);
        let is_draining_server = !stop.is_draining_work;
        if self.phase == HostPhase::Draining {
            if is_draining_server {
                self.drop_server();
            }
            self.stop_services(now);
        }
        if self.phase != HostPhase::Stopping {
            return;
        }
        self.set_host_timer(Some(deadline));
        for id in self.ids() {
            self.stop_if_unneeded(now, id);
            match self.slot(id).state {
                SlotState::Stopping => self.abort(now, id),
                SlotState::CleaningUp => self.set_timer(id, Some(clean_up_by)),
                SlotState::Aborting | SlotState::AbortingCleanUp => self.set_timer(id, Some(deadline)),
                _ => {}
            }
        }
    }
}
