//! [`Supervisor`]: the events of a generation.

use std::mem;

use tokio::time::Instant;

use super::decisions::Action;
use super::service_slot::{SlotState, StopReason};
use super::state::Supervisor;
use super::timer_queue::after;
use crate::background::control::{GenerationEvent, GenerationPhase, PhaseResult, ServiceHealth};
use crate::background::placement::Placement;
use crate::background::service::BoxError;
use crate::background::service_guard::ServiceGuard;
use crate::background::status::{CleanUp, ExitKind, ServiceState, TimeLimit};
use crate::background::trace;
use crate::panic::discard;

impl Supervisor {
    /// Handles an event. `health` comes with [`GenerationEvent::HealthChanged`].
    pub(super) fn on_event(
        &mut self,
        now: Instant,
        id: u32,
        generation: u64,
        event: GenerationEvent,
        health: Option<ServiceHealth>,
    ) {
        let slot = self.slot(id);
        if slot.status.generation != generation || !slot.has_generation() {
            return discard(event);
        }
        match event {
            GenerationEvent::Started => self.on_started(now, id),
            GenerationEvent::StartFailed(kind) => {
                self.record_exit(now, id, Err(kind));
                self.on_generation_ended(now, id);
            }
            GenerationEvent::AwaitsChildTasks => self.await_child_tasks(now, id),
            GenerationEvent::RunEnded(result) => self.on_run_ended(now, id, result),
            GenerationEvent::CleanedUp(result) => {
                discard(mem::replace(&mut self.slot_mut(id).clean_up, result));
                self.on_generation_ended(now, id);
            }
            GenerationEvent::HealthChanged => {
                if let (SlotState::Running, Some(health)) = (slot.state, health) {
                    self.set_health(now, id, health);
                }
            }
            GenerationEvent::LeaseLost => self.on_lease_lost(now, id),
            GenerationEvent::Lost { in_stop } => self.on_lost(now, id, in_stop),
        }
        self.check_started();
    }

    fn on_started(&mut self, now: Instant, id: u32) {
        let slot = self.slot_mut(id);
        slot.current.has_started = true;
        match slot.state {
            SlotState::Starting => {}
            // The start was aborted just as it returned, so the generation may have reached its run without seeing the
            // abort.
            SlotState::Aborting => return self.decide(Action::Abort(id, GenerationPhase::Run)),
            // The service was already asked to stop: it will not run, or not for long.
            _ => return,
        }
        slot.state = SlotState::Running;
        if let Some(heartbeat) = &slot.status.heartbeat {
            heartbeat.record(now);
        }
        let (took, ready) = (now.duration_since(slot.current.began), !slot.options.manual_ready);
        let heartbeat_due = slot.options.heartbeat.map(|limit| after(now, limit));
        slot.current.set_ready(now, ready);
        trace::service_started(self.name(id), took);
        self.set_timer(id, heartbeat_due);
        let running = ServiceState::Running { ready, degraded: false, reason: None };
        self.set_state_with(id, running, |status| status.start_duration = Some(took));
        if ready {
            self.on_ready(now, id);
        }
        self.set_decided(id);
    }

    /// Drops a generation that has lost its lease, or asks it to stop.
    fn on_lease_lost(&mut self, now: Instant, id: u32) {
        let slot = self.slot_mut(id);
        let is_cancelled = slot.options.guard.as_ref().is_some_and(ServiceGuard::cancels_when_lost);
        let is_droppable = slot.options.placement != Placement::Blocking;
        match (slot.state, &mut slot.current.stop_requested) {
            (SlotState::Starting | SlotState::Running, _) => self.request_stop(now, id, StopReason::LeaseLost),
            (SlotState::Stopping, Some((_, reason @ StopReason::HostStops))) => *reason = StopReason::LeaseLost,
            (SlotState::Stopping, _) => {}
            _ => return,
        }
        trace::service_lost_lease(self.name(id));
        if is_cancelled && is_droppable {
            self.abort(now, id);
        }
    }

    /// Stops a service whose `run` has ended on its own and left child tasks. Only the child tasks are asked to stop:
    /// the service ended before it was asked.
    fn await_child_tasks(&mut self, now: Instant, id: u32) {
        if self.slot(id).state == SlotState::Running {
            self.enter_stopping(now, id);
        }
    }

    fn on_run_ended(&mut self, now: Instant, id: u32, result: PhaseResult) {
        if matches!(self.slot(id).state, SlotState::CleaningUp | SlotState::AbortingCleanUp) {
            // The result is too late: the exit that was recorded earlier is kept.
            return discard(result);
        }
        self.record_exit(now, id, result);
        self.await_clean_up(now, id);
    }

    fn set_health(&mut self, now: Instant, id: u32, health: ServiceHealth) {
        let ServiceHealth { ready, degraded, reason } = health;
        self.slot_mut(id).current.set_ready(now, ready);
        self.set_state(id, ServiceState::Running { ready, degraded, reason });
        if ready {
            self.on_ready(now, id);
        }
    }

    /// Begins the services that wait for this one.
    pub(super) fn on_ready(&mut self, now: Instant, id: u32) {
        if !mem::replace(&mut self.slot_mut(id).was_ready, true) {
            for &dependent in &self.dependencies(id).dependents {
                let slot = self.slot_mut(dependent);
                slot.unmet_dependencies -= 1;
                if slot.unmet_dependencies == 0 && slot.state == SlotState::Waiting && self.stop.is_none() {
                    self.begin(now, dependent);
                }
            }
        }
        self.release_held(now, id);
    }

    /// Handles the loss of a generation: its runtime is gone.
    fn on_lost(&mut self, now: Instant, id: u32, in_stop: bool) {
        let slot = self.slot_mut(id);
        // Another generation would be lost in the same way.
        slot.current.is_last = true;
        if let (false, Some((exit, _))) = (in_stop, &slot.current.exit) {
            // The generation was lost between its `run` and its `stop`.
            let exit = exit.clone();
            return self.clean_up_elsewhere(now, id, exit);
        }
        if matches!(slot.state, SlotState::CleaningUp | SlotState::AbortingCleanUp) {
            // The exit that was recorded earlier is kept.
            slot.clean_up = CleanUp::Failed(BoxError::from("the runtime of the service is gone").into());
            return self.on_generation_ended(now, id);
        }
        let has_started = slot.current.has_started;
        self.record_exit(now, id, Err(ExitKind::Aborted));
        if has_started {
            self.clean_up_elsewhere(now, id, ExitKind::Aborted);
        } else {
            self.on_generation_ended(now, id);
        }
    }

    pub(super) fn clean_up_elsewhere(&mut self, now: Instant, id: u32, exit: ExitKind) {
        self.decide(Action::CleanUpElsewhere(id, exit));
        self.await_clean_up(now, id);
    }

    fn await_clean_up(&mut self, now: Instant, id: u32) {
        let slot = self.slot_mut(id);
        slot.state = SlotState::CleaningUp;
        let limit = after(now, slot.options.cleanup_timeout);
        self.set_state(id, ServiceState::Stopping);
        self.set_timer(id, Some(self.clip_to_clean_up(limit)));
    }

    /// Records how the work of a generation ended: the cause, not its consequence.
    pub(super) fn record_exit(&mut self, now: Instant, id: u32, result: PhaseResult) {
        let slot = self.slot_mut(id);
        let reason = slot.current.stop_reason();
        let limit = match reason {
            Some(StopReason::StartTimedOut) => Some(TimeLimit::Start(slot.options.start_timeout)),
            Some(StopReason::NoHeartbeat) => Some(TimeLimit::Heartbeat(slot.options.heartbeat.unwrap_or_default())),
            _ => None,
        };
        let kind = match (limit, result) {
            (_, Err(ExitKind::Leaked)) => ExitKind::Leaked,
            (None, result) if reason == Some(StopReason::LeaseLost) => {
                discard(result);
                ExitKind::LeaseLost
            }
            (Some(limit), result) => {
                discard(result);
                ExitKind::TimedOut(limit)
            }
            // The service had nothing to release yet, so a start that is aborted because the host stops has not failed.
            (None, Err(ExitKind::Aborted)) if !slot.current.has_started && reason == Some(StopReason::HostStops) => {
                ExitKind::Stopped
            }
            (None, Err(ExitKind::Aborted)) => slot.current.cut_short.map_or(ExitKind::Aborted, ExitKind::CutShort),
            (None, Err(kind)) => kind,
            (None, Ok(())) if reason.is_some() => ExitKind::Stopped,
            (None, Ok(())) => ExitKind::Completed,
        };
        slot.current.set_ready(now, false);
        discard(slot.current.exit.replace((kind, now)));
    }
}
