//! [`Supervisor`]: a generation is over, and what comes next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::core::{Action, Culprit, Supervisor};
use super::timers::after;
use super::unit::{Stage, Why};
use crate::background::generation::Phase;
use crate::background::placement::Placement;
use crate::background::restart::Restart;
use crate::background::service::BoxError;
use crate::background::status::{CleanUp, Exit, ExitKind, HostPhase, ServiceState, Trigger};
use crate::background::trace;
use crate::panic::discard;

impl Supervisor {
    /// A generation has ended, and what it held is released as far as it can be.
    pub(super) fn over(&mut self, now: Instant, id: u32) {
        self.set_timer(id, None);
        let exit = self.record_exit(now, id);
        let why = self.unit(id).now.why();
        if self.phase >= HostPhase::Stopping {
            let ended = if exit.is_failure() { ServiceState::Failed } else { ServiceState::Stopped };
            return self.end(now, id, ended);
        }
        // One that was told to stop because of another one has not failed, and will start with that.
        let is_anothers = matches!(why, Some(Why::Follows | Why::FollowsForEver));
        if self.phase == HostPhase::Starting && !self.unit(id).is_decided && !is_anothers {
            if self.unit(id).options.is_critical {
                return self.start_failed(now, id);
            }
            self.decide(id);
        }
        match (&exit.kind, why) {
            (_, Some(Why::FollowsForEver)) | (ExitKind::Leaked, _) => self.give_up(now, id),
            (ExitKind::Completed, _) if self.unit(id).options.restart != Restart::Always => self.complete(now, id),
            _ if self.unit(id).now.is_the_last => self.give_up(now, id),
            (_, Some(Why::Follows)) => self.begin(now, id),
            (ExitKind::Completed, _) => self.retry(now, id),
            (ExitKind::Stopped, _) => self.complete(now, id),
            _ if self.unit(id).options.restart == Restart::Never => self.give_up(now, id),
            _ => self.retry(now, id),
        }
    }

    fn record_exit(&mut self, now: Instant, id: u32) -> Arc<Exit> {
        let unit = &mut self.units[id as usize];
        let (kind, ended) = unit.now.exit.take().unwrap_or((ExitKind::Aborted, now));
        unit.took = unit.now.told.map(|(told, _)| now.duration_since(told));
        let exit = Arc::new(Exit {
            kind,
            generation: self.services.at(id).generation,
            at: self.wall.checked_sub(now.duration_since(ended)).unwrap_or(SystemTime::UNIX_EPOCH),
            ran_for: ended.duration_since(unit.now.began),
        });
        trace::generation_ended(&self.services.at(id).name, &exit, &unit.clean_up);
        let status = self.services.at_mut(id);
        discard(status.last_exit.replace(Arc::clone(&exit)));
        if exit.is_failure() {
            discard(status.last_failure.replace(Arc::clone(&exit)));
        }
        exit
    }

    fn start_failed(&mut self, now: Instant, id: u32) {
        let trigger = Trigger::StartFailed { name: Arc::clone(self.name(id)) };
        // In this order, so that it is not stopped again with the others.
        self.end(now, id, ServiceState::Failed);
        self.begin_stop(now, trigger, Some(Culprit { id, dependency: None }));
    }

    fn complete(&mut self, now: Instant, id: u32) {
        self.end(now, id, ServiceState::Completed);
        self.is_ready_at_last(now, id);
        self.release_followers(now, id);
    }

    /// Begins again, later, unless it was too often.
    fn retry(&mut self, now: Instant, id: u32) {
        let chance = (self.chance)();
        let unit = &mut self.units[id as usize];
        let (is_stable, options) = (unit.is_stable(now), &unit.options);
        let delay = unit.failures.next_delay(now, is_stable, &options.backoff, &options.intensity, chance);
        let Some(delay) = delay else { return self.give_up(now, id) };
        let failures = unit.failures.streak();
        self.services.at_mut(id).restarts += 1;
        if delay.is_zero() {
            self.begin(now, id);
        } else {
            self.units[id as usize].stage = Stage::BackingOff;
            self.set_state(id, ServiceState::BackingOff { failures, delay });
            self.set_timer(id, Some(after(now, delay)));
            trace::backing_off(self.name(id), failures, delay);
        }
        self.stop_followers(now, id, Why::Follows);
    }

    /// It is not begun again, and neither is who can't be without it. Without recursion, since a chain may be long.
    pub(super) fn give_up(&mut self, now: Instant, id: u32) {
        let mut given_up = VecDeque::from([id]);
        while let Some(id) = given_up.pop_front() {
            let unit = self.unit(id);
            if unit.stage == Stage::Ended {
                continue;
            }
            trace::given_up(self.name(id));
            if unit.options.is_critical {
                // Not begun, it waited for another one in vain.
                let has_begun = self.services.at(id).generation > 0;
                let name = Arc::clone(self.name(id));
                let trigger = if has_begun { Trigger::GaveUp { name } } else { Trigger::StartFailed { name } };
                let dependency = self.dependency_to_blame(id);
                self.end(now, id, ServiceState::Failed);
                return self.begin_stop(now, trigger, Some(Culprit { id, dependency }));
            }
            self.end(now, id, ServiceState::Failed);
            self.stop_followers(now, id, Why::FollowsForEver);
            let unit = self.unit(id);
            let is_down = |id: &&u32| matches!(self.unit(**id).stage, Stage::Held | Stage::BackingOff);
            given_up.extend(unit.followers().iter().filter(is_down));
            if !unit.was_ready {
                let waits = |id: &&u32| self.unit(**id).stage == Stage::Waiting;
                given_up.extend(unit.before().iter().filter(waits));
            }
        }
    }

    /// The one that was given up before, and takes this one with it. A failure of its own blames nobody else.
    fn dependency_to_blame(&self, id: u32) -> Option<u32> {
        let unit = self.unit(id);
        let follows = matches!(unit.now.why(), Some(Why::Follows | Why::FollowsForEver));
        let needed = match unit.stage {
            Stage::Waiting => unit.after(),
            Stage::Held | Stage::BackingOff => unit.restarts_with(),
            _ if follows => unit.restarts_with(),
            _ => return None,
        };
        needed.iter().copied().find(|needed| self.services.at(*needed).state == ServiceState::Failed)
    }

    fn stop_followers(&mut self, now: Instant, id: u32, why: Why) {
        if self.phase >= HostPhase::Stopping {
            // All are told in their order.
            return;
        }
        for index in 0..self.unit(id).followers().len() {
            let follower = self.unit(id).followers()[index];
            if self.unit(follower).is_up() {
                self.tell_to_stop(now, follower, why);
            }
        }
    }

    /// Begins those anew that were stopped with it, once it is ready again.
    pub(super) fn release_followers(&mut self, now: Instant, id: u32) {
        for index in 0..self.unit(id).followers().len() {
            let follower = self.unit(id).followers()[index];
            if self.unit(follower).stage == Stage::Held && self.phase < HostPhase::Stopping {
                self.begin(now, follower);
            }
        }
    }

    pub(super) fn hold(&mut self, id: u32) {
        self.units[id as usize].stage = Stage::Held;
        let failures = self.unit(id).failures.streak();
        self.set_state(id, ServiceState::BackingOff { failures, delay: Duration::ZERO });
        self.set_timer(id, None);
    }

    /// Its runtime is gone, and with it the generation.
    pub(super) fn lost(&mut self, now: Instant, id: u32) {
        let unit = &mut self.units[id as usize];
        // Another one would be lost in the same way.
        unit.now.is_the_last = true;
        match unit.stage {
            // What it noted before stands.
            Stage::CleaningUp | Stage::CleanUpCutOff => {
                unit.clean_up = CleanUp::Failed(BoxError::from("the runtime of the service is gone").into());
            }
            _ => {
                let has_started = unit.now.has_started;
                self.note_exit(now, id, Err(ExitKind::Aborted));
                if has_started {
                    return self.clean_up_elsewhere(now, id, ExitKind::Aborted);
                }
            }
        }
        self.over(now, id);
    }

    /// It blocks its thread.
    pub(super) fn leak(&mut self, now: Instant, id: u32) {
        let (name, unit) = (Arc::clone(self.name(id)), self.unit(id));
        trace::leaked(&name);
        let (has_started, is_blocking) = (unit.now.has_started, unit.options.placement == Placement::Blocking);
        self.note_exit(now, id, Err(ExitKind::Leaked));
        if !has_started {
            return self.over(now, id);
        }
        if self.is_forced() && is_blocking {
            self.units[id as usize].clean_up = CleanUp::Skipped;
            return self.over(now, id);
        }
        self.clean_up_elsewhere(now, id, ExitKind::Leaked);
    }

    fn clean_up_elsewhere(&mut self, now: Instant, id: u32, exit: ExitKind) {
        self.actions.push(Action::CleanUpElsewhere(id, exit));
        self.await_clean_up(now, id);
    }

    pub(super) fn await_clean_up(&mut self, now: Instant, id: u32) {
        let unit = &mut self.units[id as usize];
        unit.stage = Stage::CleaningUp;
        let limit = after(now, unit.options.cleanup_timeout);
        self.set_state(id, ServiceState::Stopping);
        self.set_timer(id, Some(self.clip_to_deadline(limit)));
    }

    pub(super) fn cut_off_clean_up(&mut self, now: Instant, id: u32) {
        let unit = &mut self.units[id as usize];
        unit.clean_up = CleanUp::TimedOut;
        unit.stage = Stage::CleanUpCutOff;
        self.actions.push(Action::CutOff(id, Phase::Stop));
        let grace = self.grace(now, id);
        self.set_timer(id, Some(grace));
    }
}
