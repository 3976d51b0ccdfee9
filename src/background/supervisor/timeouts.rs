//! [`Supervisor`]: the timers, which bound everything that waits.

use std::time::Duration;

use tokio::time::Instant;

use super::decisions::{Action, FailedService};
use super::service_slot::{SlotState, StopReason};
use super::state::Supervisor;
use super::timer_queue::after;
use crate::background::control::GenerationPhase;
use crate::background::placement::Placement;
use crate::background::status::{CleanUp, ExitKind, HostPhase, Trigger};
use crate::background::trace;

/// How long an aborted phase may take to be dropped while the host stops. Dropping a phase takes no time unless the
/// thread is stuck.
pub(super) const GRACE: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Handles the timers that are due.
    pub(super) fn on_time(&mut self, now: Instant) {
        while let Some(id) = self.timers.pop_due(now) {
            if id == self.timers.host() {
                self.on_host_timeout(now);
                continue;
            }
            match self.slot(id).state {
                SlotState::Starting => self.on_start_timeout(now, id),
                SlotState::Running => self.check_heartbeat(now, id),
                SlotState::Stopping => self.abort(now, id),
                SlotState::Aborting => self.leak(now, id),
                SlotState::CleaningUp => self.abort_clean_up(now, id),
                SlotState::AbortingCleanUp => {
                    self.slot_mut(id).current.is_last = true;
                    self.leave_behind(id);
                    self.on_generation_ended(now, id);
                }
                SlotState::BackingOff => self.begin(now, id),
                SlotState::StandingBy => self.on_ready(now, id),
                SlotState::Waiting | SlotState::Held | SlotState::Ended => {}
            }
        }
        self.check_started();
    }

    /// Handles a phase of the host that takes too long.
    fn on_host_timeout(&mut self, now: Instant) {
        match self.phase {
            HostPhase::Starting => {
                // Find the first service that is not ready itself, not a service that waits for it.
                let is_late = |id: &u32| self.slot(*id).state != SlotState::Waiting && !self.slot(*id).was_ready;
                let failed = self.ids().find(is_late).map(|id| FailedService { id, dependency: None });
                self.begin_stop(now, Trigger::StartTimedOut, failed);
            }
            HostPhase::Draining if self.stop.as_ref().is_some_and(|stop| stop.is_draining_work) => {
                self.stop_services(now);
            }
            HostPhase::Draining => {
                if let Some(stop) = self.stop.as_mut().filter(|stop| !stop.has_refused_waiters) {
                    stop.has_refused_waiters = true;
                    let server_by = stop.schedule.server_by;
                    self.decide(Action::RefuseWaiters);
                    return self.set_host_timer(Some(server_by));
                }
                self.drop_server();
                // The server may leave handlers when it is dropped.
                self.has_work = true;
                self.drain_work(now);
            }
            HostPhase::Stopping => self.on_stop_timeout(now),
            HostPhase::Built | HostPhase::Running | HostPhase::Stopped => {}
        }
    }

    /// Drops a start immediately, unless the service is blocking. A blocking service has its `stop_timeout` to end.
    fn on_start_timeout(&mut self, now: Instant, id: u32) {
        self.request_stop(now, id, StopReason::StartTimedOut);
        if self.slot(id).options.placement != Placement::Blocking {
            self.abort(now, id);
        }
    }

    fn check_heartbeat(&mut self, now: Instant, id: u32) {
        let slot = self.slot(id);
        let (Some(limit), Some(heartbeat)) = (slot.options.heartbeat, &slot.status.heartbeat) else { return };
        let due = after(heartbeat.last(), limit);
        if due > now {
            return self.set_timer(id, Some(due));
        }
        trace::heartbeat_missed(self.name(id), limit);
        self.request_stop(now, id, StopReason::NoHeartbeat);
    }

    /// Aborts a service that did not stop in time.
    pub(super) fn abort(&mut self, now: Instant, id: u32) {
        let slot = self.slot_mut(id);
        if slot.options.placement == Placement::Blocking {
            return self.leak(now, id);
        }
        let phase = if slot.current.has_started { GenerationPhase::Run } else { GenerationPhase::Start };
        slot.state = SlotState::Aborting;
        if slot.current.stop_reason() == Some(StopReason::HostStops) {
            slot.note_abort(now);
        }
        trace::cut_off_service(&slot.status.name, slot.current.cut_short);
        self.decide(Action::Abort(id, phase));
        let by = self.stop.as_ref().map(|stop| stop.schedule.clean_up_by);
        self.set_grace_timer(now, id, by);
    }

    fn abort_clean_up(&mut self, now: Instant, id: u32) {
        let slot = self.slot_mut(id);
        slot.clean_up = CleanUp::TimedOut;
        slot.state = SlotState::AbortingCleanUp;
        self.decide(Action::Abort(id, GenerationPhase::Stop));
        let by = self.stop.as_ref().map(|stop| stop.schedule.deadline);
        self.set_grace_timer(now, id, by);
    }

    /// Limits how long an aborted phase may take to be dropped: to half of the time that is left while the host stops.
    fn set_grace_timer(&mut self, now: Instant, id: u32, by: Option<Instant>) {
        let deadline = match by {
            Some(by) => now + GRACE.min(by.saturating_duration_since(now) / 2),
            None => after(now, self.slot(id).options.stop_timeout.max(GRACE)),
        };
        self.set_timer(id, Some(deadline));
    }

    /// Leaves behind a service whose thread is blocked, by itself or by another task.
    fn leak(&mut self, now: Instant, id: u32) {
        trace::leaked(self.name(id));
        self.leave_behind(id);
        self.record_exit(now, id, Err(ExitKind::Leaked));
        let is_forced = self.stop.as_ref().is_some_and(|stop| stop.forced_by.is_some());
        let slot = self.slot_mut(id);
        if !slot.current.has_started {
            return self.on_generation_ended(now, id);
        }
        if is_forced && slot.options.placement == Placement::Blocking {
            slot.clean_up = CleanUp::Skipped;
            return self.on_generation_ended(now, id);
        }
        self.clean_up_elsewhere(now, id, ExitKind::Leaked);
    }
}
