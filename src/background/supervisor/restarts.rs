//! [`Supervisor`]: the beginning of a generation, and what follows its end.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::decisions::{Action, FailedService};
use super::service_slot::{CurrentGeneration, ServiceSlot, SlotState, StopReason};
use super::state::Supervisor;
use super::timer_queue::after;
use crate::background::restart::Restart;
use crate::background::service_guard::ServicePermit;
use crate::background::status::{CleanUp, Exit, ExitKind, HostPhase, ServiceState, Trigger};
use crate::background::trace;
use crate::panic::discard;

impl Supervisor {
    /// Begins a generation, unless a service that this one restarts with is not ready.
    pub(super) fn begin(&mut self, now: Instant, id: u32) {
        let restarts_with = self.dependencies(id);
        let restarts_with = restarts_with.restarts_with.iter().map(|dependency| self.slot(*dependency));
        let is_missing = |slot: &&ServiceSlot| !slot.is_ready() && slot.status.state != ServiceState::Completed;
        let missing: Vec<SlotState> = restarts_with.filter(is_missing).map(|slot| slot.state).collect();
        if missing.contains(&SlotState::Ended) {
            return self.give_up(now, id);
        }
        if !missing.is_empty() {
            return self.hold(id);
        }
        let slot = self.slot_mut(id);
        slot.current = CurrentGeneration::new(now);
        slot.stop_duration = None;
        discard(mem::replace(&mut slot.clean_up, CleanUp::NotNeeded));
        if slot.options.guard.is_some() && slot.permit.is_none() {
            return self.stand_by(now, id);
        }
        slot.state = SlotState::Starting;
        let limit = slot.options.start_timeout;
        self.set_state_with(id, ServiceState::Starting, |status| status.generation += 1);
        self.set_timer(id, Some(after(now, limit)));
        self.decide(Action::BeginGeneration(id));
    }

    /// Waits for the permit of the service's guard. The host does not wait for it, and neither do other services.
    fn stand_by(&mut self, now: Instant, id: u32) {
        self.slot_mut(id).state = SlotState::StandingBy;
        self.set_state(id, ServiceState::Standby { reason: None });
        // The timer starts the services that wait for this one. Starting them here would recurse along a chain of
        // services.
        self.set_timer(id, Some(now));
        self.set_decided(id);
        self.decide(Action::StandBy(id));
    }

    /// Begins a generation with the permit of the service's guard.
    pub(super) fn on_admitted(&mut self, now: Instant, id: u32, permit: ServicePermit) {
        // A host that is stopping begins no new generation, even while it still drains.
        if self.slot(id).state != SlotState::StandingBy || self.stop.is_some() {
            return discard(permit);
        }
        self.slot_mut(id).permit = Some(permit);
        self.begin(now, id);
        if self.slot(id).state != SlotState::Starting {
            // The service has to wait for another one.
            discard(self.slot_mut(id).permit.take());
        }
    }

    /// Publishes why the guard has not admitted the service.
    pub(super) fn on_not_admitted(&mut self, id: u32, reason: Arc<str>) {
        if self.slot(id).state == SlotState::StandingBy {
            self.set_state(id, ServiceState::Standby { reason: Some(reason) });
        }
    }

    fn hold(&mut self, id: u32) {
        let slot = self.slot_mut(id);
        slot.state = SlotState::Held;
        let failures = slot.failures.streak();
        self.set_state(id, ServiceState::BackingOff { failures, delay: Duration::ZERO });
        self.set_timer(id, None);
    }

    /// Begins the held services that restart with this one, which is ready again.
    pub(super) fn release_held(&mut self, now: Instant, id: u32) {
        for &dependent in &self.dependencies(id).restart_dependents {
            if self.slot(dependent).state == SlotState::Held && !self.phase.is_stopping_services() {
                self.begin(now, dependent);
            }
        }
    }

    /// Handles the end of a generation, which has released its resources as far as that is possible.
    pub(super) fn on_generation_ended(&mut self, now: Instant, id: u32) {
        self.set_timer(id, None);
        let exit = self.publish_exit(now, id);
        if self.slot(id).options.guard.is_some() {
            // A thread that is left behind may still work, so it keeps the permit.
            let is_left_behind = self.slot(id).is_left_behind;
            self.decide(if is_left_behind { Action::LeavePermit(id) } else { Action::ReleasePermit(id) });
        }
        let slot = self.slot(id);
        let reason = slot.current.stop_reason();
        if self.stops_now(id) {
            let state = if exit.is_failure() { ServiceState::Failed } else { ServiceState::Stopped };
            return self.end(now, id, state);
        }
        // A service that was stopped because of another one has not failed, and starts again with that one.
        let is_tied = matches!(reason, Some(StopReason::DependencyRestarts | StopReason::DependencyGivenUp));
        if self.phase == HostPhase::Starting && !slot.is_decided && !is_tied {
            if slot.options.is_critical {
                return self.fail_start(now, id);
            }
            self.set_decided(id);
        }
        let (restart, is_last) = (self.slot(id).options.restart, self.slot(id).current.is_last);
        match (&exit.kind, reason) {
            (_, Some(StopReason::DependencyGivenUp)) | (ExitKind::Leaked, _) => self.give_up(now, id),
            (ExitKind::Completed, _) if restart != Restart::Always => {
                trace::service_completed(self.name(id), &exit, self.slot(id).options.is_critical);
                self.complete(now, id);
            }
            _ if is_last => self.give_up(now, id),
            (_, Some(StopReason::DependencyRestarts)) => self.begin(now, id),
            (_, Some(StopReason::LeaseLost)) => {
                self.begin(now, id);
                self.stop_restart_dependents(now, id, StopReason::DependencyRestarts);
            }
            (ExitKind::Completed, _) => self.retry(now, id),
            (ExitKind::Stopped, _) => self.complete(now, id),
            _ if restart == Restart::Never => self.give_up(now, id),
            _ => self.retry(now, id),
        }
    }

    /// Moves the recorded exit of a generation to the status.
    fn publish_exit(&mut self, now: Instant, id: u32) -> Arc<Exit> {
        let wall = self.wall;
        let slot = self.slot_mut(id);
        let (kind, ended) = slot.current.exit.take().unwrap_or((ExitKind::Aborted, now));
        slot.stop_duration = slot.current.stop_requested.map(|(requested, _)| now.duration_since(requested));
        let exit = Arc::new(Exit {
            kind,
            generation: slot.status.generation,
            at: wall.checked_sub(now.duration_since(ended)).unwrap_or(SystemTime::UNIX_EPOCH),
            ran_for: ended.duration_since(slot.current.began),
        });
        trace::generation_ended(&slot.status.name, &exit, &slot.clean_up);
        let status = self.status_mut(id);
        discard(status.last_exit.replace(Arc::clone(&exit)));
        if exit.is_failure() {
            discard(status.last_failure.replace(Arc::clone(&exit)));
        }
        exit
    }

    fn fail_start(&mut self, now: Instant, id: u32) {
        let trigger = Trigger::StartFailed { name: Arc::clone(self.name(id)) };
        // In this order, so that the service is not stopped again with the others.
        self.end(now, id, ServiceState::Failed);
        self.begin_stop(now, trigger, Some(FailedService { id, dependency: None }));
    }

    fn complete(&mut self, now: Instant, id: u32) {
        self.end(now, id, ServiceState::Completed);
        self.on_ready(now, id);
    }

    /// Begins another generation after the backoff, unless there were too many restarts.
    fn retry(&mut self, now: Instant, id: u32) {
        let chance = (self.random)();
        let slot = self.slot_mut(id);
        let (is_stable, options) = (slot.is_stable(now), &slot.options);
        let delay = slot.failures.next_delay(now, is_stable, &options.backoff, &options.intensity, chance);
        let Some(delay) = delay else { return self.give_up(now, id) };
        let failures = slot.failures.streak();
        self.status_mut(id).restarts += 1;
        if delay.is_zero() {
            self.begin(now, id);
        } else {
            self.slot_mut(id).state = SlotState::BackingOff;
            self.set_state(id, ServiceState::BackingOff { failures, delay });
            self.set_timer(id, Some(after(now, delay)));
            trace::backing_off(self.name(id), failures, delay);
        }
        self.stop_restart_dependents(now, id, StopReason::DependencyRestarts);
    }

    fn stop_restart_dependents(&mut self, now: Instant, id: u32, reason: StopReason) {
        if self.phase.is_stopping_services() {
            // The host stops all services in their order.
            return;
        }
        for &dependent in &self.dependencies(id).restart_dependents {
            if self.slot(dependent).can_stop() {
                self.request_stop(now, dependent, reason);
            }
        }
    }

    /// Gives up on a service and on the services that cannot run without it. The method does not recurse, since a chain
    /// may be long.
    fn give_up(&mut self, now: Instant, id: u32) {
        let mut given_up = VecDeque::from([id]);
        while let Some(id) = given_up.pop_front() {
            let slot = self.slot(id);
            if slot.state == SlotState::Ended {
                continue;
            }
            trace::given_up(self.name(id));
            if slot.options.is_critical {
                let name = Arc::clone(self.name(id));
                // A service without a generation waited in vain for a dependency.
                let has_begun = slot.status.generation > 0;
                let trigger = if has_begun { Trigger::GaveUp { name } } else { Trigger::StartFailed { name } };
                let dependency = self.given_up_dependency(id);
                self.end(now, id, ServiceState::Failed);
                return self.begin_stop(now, trigger, Some(FailedService { id, dependency }));
            }
            self.end(now, id, ServiceState::Failed);
            self.stop_restart_dependents(now, id, StopReason::DependencyGivenUp);
            let slot = self.slot(id);
            let waits_to_restart = |id: &&u32| {
                use SlotState::{BackingOff, Held, StandingBy};
                matches!(self.slot(**id).state, Held | BackingOff | StandingBy)
            };
            given_up.extend(slot.dependencies.restart_dependents.iter().filter(waits_to_restart));
            if !slot.was_ready {
                let waits_to_start = |id: &&u32| self.slot(**id).state == SlotState::Waiting;
                given_up.extend(slot.dependencies.dependents.iter().filter(waits_to_start));
            }
        }
    }

    /// Returns the dependency that the host gave up on, if that is why the host gives up on this service. A service
    /// that failed on its own has no such dependency.
    fn given_up_dependency(&self, id: u32) -> Option<u32> {
        let slot = self.slot(id);
        let reason = slot.current.stop_reason();
        let is_tied = matches!(reason, Some(StopReason::DependencyRestarts | StopReason::DependencyGivenUp));
        let dependencies = match slot.state {
            SlotState::Waiting => &slot.dependencies.after,
            SlotState::Held | SlotState::BackingOff | SlotState::StandingBy => &slot.dependencies.restarts_with,
            _ if is_tied => &slot.dependencies.restarts_with,
            _ => return None,
        };
        dependencies.iter().copied().find(|dependency| self.status(*dependency).state == ServiceState::Failed)
    }
}
