//! [`Board`], the runs of some keys behind one mutex: who shares which, who drives it, and when it is over.
//!
//! ```text
//!   start ──▶ Out ◀────────────▶ Here                  Out: someone polls the work right now
//!              │ │     poll       │
//!    it ended  │ │ last caller    │ last caller leaves
//!              ▼ ╰──────▶ Ending ◀╯                    Ending: it is cancelled, but not dropped yet
//!           Landed          │ dropped
//!              ╰▶ gone ◀── Ended
//! ```
//!
//! # Invariants
//!
//! 1. A key has at most one linked run, and a linked run is `Out`, `Here` or `Ending`. So the work of one key is neither
//!    polled nor dropped while another work of that key has begun, unless the run was forgotten.
//! 2. An `Ending` run takes nobody aboard: who comes waits until it has `Ended`, and then starts anew.
//! 3. A run's entry stays as long as a caller or the task has a share in it, or its work is there or being polled.
//! 4. While the work is `Here`, whoever may drive it has a waker with it from its last poll, or will be polled: the task
//!    was just spawned, or every caller was just woken.
//! 5. The work, the outcome, keys and wakers are never polled, cloned, dropped or woken under the mutex. (But outcomes are
//!    reference counts, and keys are compared.)

#[cfg(all(test, loom))]
#[path = "loom_tests.rs"]
mod loom_tests;
#[cfg(all(test, not(loom)))]
#[path = "property_tests.rs"]
mod property_tests;

use std::mem;
use std::task::Waker;

use super::found::{Boarding, Found, Landing, Pilot, Rest};
use super::run::{Driver, Run, Seat, State};
use crate::counter::Counter;
use crate::guard::key_map::{DeferredEntry, DeferredKey, Hash64, Table};
use crate::sync::{Mutex, lock};

/// The runs of some keys. `W` is the work, `O` an outcome that is cheap to clone.
#[derive(Debug)]
pub(crate) struct Board<K, W, O> {
    pub(super) runs: Mutex<Table<K, Run<W, O>>>,
    pub(crate) tally: Tally,
}

/// What a run of one caller leaves behind, to be dropped after the mutex is unlocked.
type Alone<K, W, O> = (DeferredKey<K, Run<W, O>>, Option<Waker>);

/// Counted under the mutex.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Keys with a run.
    pub(crate) running: Counter,
    /// Callers that have a share in a run, or wait for a cancelled one to end.
    pub(crate) callers: Counter,
    pub(crate) runs: Counter,
    /// Callers that joined a run.
    pub(crate) shared: Counter,
    pub(crate) cancelled: Counter,
}

impl<K: Eq, W, O: Clone> Board<K, W, O> {
    pub(crate) fn new() -> Self {
        let tally = Tally {
            running: Counter::new(),
            callers: Counter::new(),
            runs: Counter::new(),
            shared: Counter::new(),
            cancelled: Counter::new(),
        };
        Self { runs: Mutex::new(Table::new()), tally }
    }

    /// Joins the run of a key, or starts one: then the key is taken.
    ///
    /// `most` callers may share a run. `is_inside` tells whether the caller is the work of the run with that index, and
    /// `can_spawn` whether a task can drive it from now on.
    #[inline]
    pub(crate) fn come_aboard(
        &self,
        hash: Hash64,
        key: &mut Option<K>,
        waker: &mut Option<Waker>,
        most: usize,
        is_inside: impl Fn(u32) -> bool,
        can_spawn: impl FnOnce() -> bool,
    ) -> Boarding {
        let mut runs = lock(&self.runs);
        let known = key.as_ref().expect("a caller brings its key");
        let Some(index) = runs.find(hash, known) else {
            let key = key.take().expect("looked at above");
            let index = runs.insert(hash, key, Run::new());
            self.tally.running.add_exclusive(1);
            self.tally.callers.add_exclusive(1);
            self.tally.runs.add_exclusive(1);
            return Boarding::Started { index, seat: Seat::FIRST };
        };
        if is_inside(index) {
            return Boarding::WouldDeadlock;
        }
        let run = runs.value(index);
        if run.callers >= most {
            return Boarding::Full;
        }
        if waker.is_none() {
            return Boarding::WantsWaker;
        }
        run.callers += 1;
        self.tally.callers.add_exclusive(1);
        let seat = run.take_seat(waker.take());
        if matches!(run.state, State::Ending) {
            return Boarding::Joined { index, seat, spawn_task: false, is_adrift: false };
        }
        self.tally.shared.add_exclusive(1);
        let spawn_task = run.give_to_task(can_spawn);
        let is_adrift = matches!((&run.state, run.driver), (State::Here(_), Driver::Anyone));
        Boarding::Joined { index, seat, spawn_task, is_adrift }
    }

    /// A caller is polled.
    pub(crate) fn find(&self, index: u32, seat: Seat, waker: &Waker, fresh: &mut Option<Waker>) -> Found<W, O> {
        // Dropped after the mutex is unlocked, in place: to move them there would take longer than all the rest.
        let _stale;
        let _garbage;
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        let landed = match &run.state {
            State::Landed(outcome) => Some(outcome.clone()),
            State::Ended => None,
            State::Here(_) if matches!(run.driver, Driver::Anyone) || run.driver == Driver::Caller(seat) => {
                run.driver = Driver::Caller(seat);
                return Found::Drive(run.take_work());
            }
            State::Here(_) | State::Out | State::Ending => {
                let known = run.waker(seat);
                if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
                    return Found::Pending;
                }
                let Some(fresh) = fresh.take() else { return Found::WantsWaker };
                _stale = known.replace(fresh);
                return Found::Pending;
            }
        };
        _stale = run.leave_seat(seat);
        run.callers -= 1;
        self.tally.callers.subtract_exclusive(1);
        _garbage = remove_if_over(&mut runs, index);
        landed.map_or(Found::Again, Found::Landed)
    }

    /// A caller has polled the work, which goes on. `waker` is what the work has of this caller.
    pub(crate) fn put_back(
        &self,
        index: u32,
        seat: Seat,
        work: W,
        waker: Waker,
        can_spawn: impl FnOnce() -> bool,
    ) -> Rest<K, W, O> {
        let mut rest = Rest::nothing();
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        debug_assert!(matches!(run.state, State::Out), "whoever polls the work has a share in it");
        run.state = State::Here(work);
        let stale = run.waker(seat).replace(waker);
        match run.driver {
            // It came meanwhile, and found the work away.
            Driver::Task => rest.wakers.extend(run.task_waker().and_then(Option::take)),
            Driver::Anyone => run.driver = Driver::Caller(seat),
            Driver::Caller(_) => {}
        }
        rest.spawn_task = run.callers > 1 && !run.is_without_tasks() && run.give_to_task(can_spawn);
        drop(runs);
        drop(stale);
        rest
    }

    /// The work has ended, and its pilot is the only caller that it ever had: the run is gone. `None` if it isn't so.
    ///
    /// The waker is the pilot's.
    #[inline]
    pub(crate) fn land_alone(&self, index: u32) -> Option<Alone<K, W, O>> {
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        if !run.is_of_one() {
            return None;
        }
        self.uncount(run);
        self.tally.callers.subtract_exclusive(1);
        let waker = run.leave_seat(Seat::FIRST);
        Some((runs.remove_and_drop_value(index), waker))
    }

    /// The work has ended with `result`, which `share` makes an outcome if others want it. The pilot has no share in the
    /// run any more.
    pub(crate) fn land<R>(
        &self,
        index: u32,
        pilot: Pilot,
        result: R,
        share: impl FnOnce(R) -> O,
    ) -> (Landing<R, O>, Rest<K, W, O>) {
        let mut rest = Rest::nothing();
        let mut runs = lock(&self.runs);
        runs.unlink(index);
        let run = runs.value(index);
        self.uncount(run);
        match pilot {
            Pilot::Task => rest.gone = run.end_task(),
            Pilot::Caller(_) => {
                run.callers -= 1;
                self.tally.callers.subtract_exclusive(1);
                rest.wakers.extend(run.task_waker().and_then(Option::take));
            }
        }
        let is_wanted = matches!(run.state, State::Out) && run.callers > 0;
        if matches!(run.state, State::Ending) {
            // Nobody wanted it when it was last looked at, and who came since then starts anew.
            self.tally.cancelled.add_exclusive(1);
        }
        rest.wakers.append(&mut run.take_wakers());
        let landing = if is_wanted {
            let outcome = share(result);
            run.state = State::Landed(outcome.clone());
            Landing::Shared(outcome)
        } else {
            run.state = State::Ended;
            Landing::Own(result)
        };
        rest.garbage = remove_if_over(&mut runs, index);
        (landing, rest)
    }

    /// A caller leaves before the end. A `detached` run goes on without callers if a task can drive it.
    pub(crate) fn leave(
        &self,
        index: u32,
        seat: Seat,
        detached: bool,
        can_spawn: impl FnOnce() -> bool,
    ) -> Rest<K, W, O> {
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        if !matches!(run.state, State::Out | State::Here(_)) {
            return self.disembark(&mut runs, index, seat);
        }
        let mut rest = Rest::nothing();
        run.callers -= 1;
        self.tally.callers.subtract_exclusive(1);
        let gone = run.leave_seat(seat);
        if run.callers > 0 {
            // It may be the one that was woken to drive. Whoever came since then was not.
            if matches!(run.driver, Driver::Anyone) || run.driver == Driver::Caller(seat) {
                run.driver = Driver::Anyone;
                rest.wakers = run.take_wakers();
            }
        } else if detached && !run.has_task() {
            rest.spawn_task = run.give_to_task(can_spawn);
            if !rest.spawn_task {
                self.cancel(run, &mut rest);
            }
        } else if !detached {
            self.cancel(run, &mut rest);
        }
        drop(runs);
        drop(gone);
        rest
    }

    /// The work of a cancelled run has been dropped.
    pub(crate) fn end(&self, index: u32) -> Rest<K, W, O> {
        let mut rest = Rest::nothing();
        let mut runs = lock(&self.runs);
        runs.unlink(index);
        self.tally.cancelled.add_exclusive(1);
        let run = runs.value(index);
        run.state = State::Ended;
        rest.wakers = run.take_wakers();
        rest.garbage = remove_if_over(&mut runs, index);
        rest
    }

    /// The next caller of the key starts a run, whether this one has ended or not. Returns whether there was one.
    pub(crate) fn forget(&self, hash: Hash64, key: &K) -> bool {
        let mut runs = lock(&self.runs);
        let Some(index) = runs.find(hash, key) else { return false };
        let run = runs.value(index);
        if matches!(run.state, State::Ending) {
            return false;
        }
        self.uncount(run);
        runs.unlink(index)
    }

    /// All callers have left: the work is to be dropped, here or by who polls it right now.
    pub(super) fn cancel(&self, run: &mut Run<W, O>, rest: &mut Rest<K, W, O>) {
        self.uncount(run);
        if let State::Here(work) = mem::replace(&mut run.state, State::Ending) {
            rest.cancelled = Some(work);
        }
        rest.wakers.extend(run.task_waker().and_then(Option::take));
    }

    /// A caller leaves a run that is over, or that it had no share in.
    fn disembark(&self, runs: &mut Table<K, Run<W, O>>, index: u32, seat: Seat) -> Rest<K, W, O> {
        let mut rest = Rest::nothing();
        let run = runs.value(index);
        run.callers -= 1;
        self.tally.callers.subtract_exclusive(1);
        if let State::Landed(outcome) = &run.state {
            rest.landed = Some(outcome.clone());
        }
        let gone = run.leave_seat(seat);
        rest.gone = gone;
        rest.garbage = remove_if_over(runs, index);
        rest
    }

    fn uncount(&self, run: &mut Run<W, O>) {
        if mem::replace(&mut run.is_counted, false) {
            self.tally.running.subtract_exclusive(1);
        }
    }
}

pub(super) fn remove_if_over<K: Eq, W, O>(
    runs: &mut Table<K, Run<W, O>>,
    index: u32,
) -> Option<DeferredEntry<K, Run<W, O>>> {
    runs.value(index).is_over().then(|| runs.remove(index))
}
