//! [`Supervisor`]: what services tell.

use std::mem;

use tokio::time::Instant;

use super::core::{Action, Supervisor};
use super::timers::after;
use super::unit::{Stage, Why};
use crate::background::generation::{Condition, Ended, News, Phase};
use crate::background::placement::Placement;
use crate::background::status::{CleanUp, ExitKind, ServiceState, TimeLimit};
use crate::background::trace;
use crate::panic::discard;

impl Supervisor {
    /// Takes news of a service. What changed it has in `condition`.
    pub(crate) fn hear(&mut self, now: Instant, id: u32, generation: u64, news: News, condition: Option<Condition>) {
        let unit = self.unit(id);
        let is_going_on = !matches!(unit.stage, Stage::Waiting | Stage::BackingOff | Stage::Held | Stage::Ended);
        if self.services.at(id).generation != generation || !is_going_on {
            return news.discard();
        }
        match news {
            News::Started => self.has_started(now, id),
            News::NotStarted(ended) => {
                self.note_exit(now, id, ended);
                self.over(now, id);
            }
            News::AwaitsChildren => self.await_children(now, id),
            News::RunEnded(ended) => {
                if self.note_end_of_run(now, id, ended) {
                    self.await_clean_up(now, id);
                }
            }
            News::CleanedUp(outcome) => self.cleaned_up(now, id, outcome),
            News::AllEnded(ended, outcome) => {
                self.note_end_of_run(now, id, ended);
                self.cleaned_up(now, id, outcome);
            }
            News::Changed => {
                if let (Stage::Running, Some(condition)) = (unit.stage, condition) {
                    self.set_condition(now, id, condition);
                }
            }
            News::Lost => self.lost(now, id),
        }
        self.maybe_started();
    }

    /// Whether it is not too late for that. If it is, what was noted before stands.
    fn note_end_of_run(&mut self, now: Instant, id: u32, ended: Ended) -> bool {
        let is_news = !matches!(self.unit(id).stage, Stage::CleaningUp | Stage::CleanUpCutOff);
        if is_news {
            self.note_exit(now, id, ended);
        } else {
            discard(ended);
        }
        is_news
    }

    fn cleaned_up(&mut self, now: Instant, id: u32, outcome: CleanUp) {
        discard(mem::replace(&mut self.units[id as usize].clean_up, outcome));
        self.over(now, id);
    }

    /// What awaits is dropped at once. What blocks can't be, and gets the time to stop.
    pub(super) fn start_timed_out(&mut self, now: Instant, id: u32) {
        self.tell_to_stop(now, id, Why::StartTimedOut);
        if self.unit(id).options.placement != Placement::Blocking {
            self.cut_off(now, id);
        }
    }

    fn has_started(&mut self, now: Instant, id: u32) {
        let unit = &mut self.units[id as usize];
        unit.now.has_started = true;
        match unit.stage {
            Stage::Starting => {}
            // Its start was cut off in the moment in which it returned, so it may have come to its run before it was told.
            Stage::CutOff => return self.actions.push(Action::CutOff(id, Phase::Run)),
            // It was told to stop before: it will not run, or not for long.
            _ => return,
        }
        unit.stage = Stage::Running;
        if let Some(pulse) = &unit.pulse {
            pulse.beat(now);
        }
        let (took, ready) = (now.duration_since(unit.now.began), !unit.options.manual_ready);
        let first_look = unit.options.heartbeat.map(|limit| after(now, limit));
        trace::service_started(self.name(id), took);
        self.set_timer(id, first_look);
        self.units[id as usize].now.set_ready(now, ready);
        let running = ServiceState::Running { ready, degraded: false, reason: None };
        self.set_state_and(id, running, |status| status.start_duration = Some(took));
        self.tell_who_waits(now, id, ready);
        self.decide(id);
    }

    fn set_condition(&mut self, now: Instant, id: u32, condition: Condition) {
        let Condition { ready, degraded, reason } = condition;
        self.units[id as usize].now.set_ready(now, ready);
        self.set_state(id, ServiceState::Running { ready, degraded, reason });
        self.tell_who_waits(now, id, ready);
    }

    fn tell_who_waits(&mut self, now: Instant, id: u32, ready: bool) {
        if ready {
            self.is_ready_at_last(now, id);
            self.release_followers(now, id);
        }
    }

    /// Lets those go that waited for it, if this is the first time.
    pub(super) fn is_ready_at_last(&mut self, now: Instant, id: u32) {
        if mem::replace(&mut self.units[id as usize].was_ready, true) {
            return;
        }
        for index in 0..self.unit(id).before().len() {
            let dependent = self.unit(id).before()[index];
            let unit = &mut self.units[dependent as usize];
            unit.missing -= 1;
            if unit.missing == 0 && unit.stage == Stage::Waiting && self.stop.is_none() {
                self.begin(now, dependent);
            }
        }
    }

    pub(super) fn look_for_heartbeat(&mut self, now: Instant, id: u32) {
        let unit = self.unit(id);
        let (Some(limit), Some(pulse)) = (unit.options.heartbeat, &unit.pulse) else { return };
        let due = after(pulse.last(), limit);
        if due > now {
            return self.set_timer(id, Some(due));
        }
        trace::heartbeat_missed(self.name(id), limit);
        self.tell_to_stop(now, id, Why::NoHeartbeat);
    }

    /// Takes down how the work of a generation ended: what was the cause, not what it led to.
    pub(super) fn note_exit(&mut self, now: Instant, id: u32, ended: Ended) {
        let unit = &mut self.units[id as usize];
        let limit = match unit.now.why() {
            Some(Why::StartTimedOut) => Some(TimeLimit::Start(unit.options.start_timeout)),
            Some(Why::NoHeartbeat) => Some(TimeLimit::Heartbeat(unit.options.heartbeat.unwrap_or_default())),
            _ => None,
        };
        let kind = match (limit, ended) {
            (_, Err(ExitKind::Leaked)) => ExitKind::Leaked,
            (Some(limit), ended) => {
                discard(ended);
                ExitKind::TimedOut(limit)
            }
            // It had nothing to release yet: a start that is cut off because the host stops has not failed.
            (None, Err(ExitKind::Aborted)) if !unit.now.has_started && unit.now.why() == Some(Why::HostStops) => {
                ExitKind::Stopped
            }
            (None, Err(kind)) => kind,
            (None, Ok(())) if unit.now.told.is_some() => ExitKind::Stopped,
            (None, Ok(())) => ExitKind::Completed,
        };
        unit.now.set_ready(now, false);
        discard(unit.now.exit.replace((kind, now)));
    }
}
