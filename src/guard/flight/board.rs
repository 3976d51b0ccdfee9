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

use slab::Slab;

use crate::counter::Counter;
use crate::guard::keys::{Garbage, Hash64, Table};
use crate::sync::{Mutex, lock};

/// The runs of some keys. `W` is the work, `O` an outcome that is cheap to clone.
#[derive(Debug)]
pub(crate) struct Board<K, W, O> {
    runs: Mutex<Table<K, Run<W, O>>>,
    pub(crate) tally: Tally,
}

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

#[derive(Debug)]
struct Run<W, O> {
    state: State<W, O>,
    driver: Driver,
    callers: usize,
    seats: Seats,
    /// Whether a task has a share in it, and where to wake it.
    task: Option<Option<Waker>>,
    is_counted: bool,
}

#[derive(Debug)]
enum State<W, O> {
    Out,
    Here(W),
    Ending,
    Ended,
    Landed(O),
}

/// Who polls the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    /// Whoever asks next.
    Anyone,
    Caller(Seat),
    Task,
}

/// A caller's place in a run, with its waker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(u32);

#[derive(Debug)]
struct Seats {
    /// Of the caller that starts the run. Most runs have no other.
    first: Option<Waker>,
    others: Slab<Option<Waker>>,
}

/// How a caller comes aboard.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// It starts a run, and polls it first.
    Started { index: u32, seat: Seat },
    /// It has a share in a run.
    Joined { index: u32, seat: Seat, spawn_task: bool },
    /// There is a run: try again with a waker.
    WantsWaker,
    /// So many share the run that no more may.
    Full,
    /// This caller is the run's own work.
    WouldDeadlock,
}

/// What a caller finds when it is polled.
#[derive(Debug)]
pub(crate) enum Found<W, O> {
    Pending,
    /// Look again with a waker.
    WantsWaker,
    /// Poll the work, then [`put_back`](Board::put_back) or [`land`](Board::land).
    Drive(W),
    /// The run has ended, and with it the caller's share.
    Landed(O),
    /// The run that this caller did not share has ended: it starts anew.
    Again,
}

/// What the task finds when it is polled.
#[derive(Debug)]
pub(crate) enum TaskFound<W> {
    Pending,
    WantsWaker,
    Drive(W),
    /// The run needs no task any more, and the task has no share in it any more.
    Over,
}

/// What a section under the mutex leaves to do without it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Rest<K, W, O> {
    /// To be woken.
    pub(crate) wakers: Vec<Waker>,
    /// The work of a cancelled run. Drop it, and then call [`Board::end`].
    pub(crate) cancelled: Option<W>,
    /// The run counts on a task to drive it: spawn one.
    pub(crate) spawn_task: bool,
    /// The run has landed: what a caller that leaves would have got.
    pub(crate) landed: Option<O>,
    _seats: Option<Seats>,
    _garbage: Option<Garbage<K, Run<W, O>>>,
}

/// What becomes of the result of a run.
#[derive(Debug)]
pub(crate) enum Landing<R, O> {
    /// Nobody else wants it.
    Own(R),
    /// Others have it too.
    Shared(O),
}

/// Who polled the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pilot {
    Caller(Seat),
    Task,
}

impl<K, W, O> Rest<K, W, O> {
    fn nothing() -> Self {
        Self { wakers: Vec::new(), cancelled: None, spawn_task: false, landed: None, _seats: None, _garbage: None }
    }
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
            self.tally.running.add_alone(1);
            self.tally.callers.add_alone(1);
            self.tally.runs.add_alone(1);
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
        self.tally.callers.add_alone(1);
        let seat = run.seats.take(waker.take());
        if matches!(run.state, State::Ending) {
            return Boarding::Joined { index, seat, spawn_task: false };
        }
        self.tally.shared.add_alone(1);
        Boarding::Joined { index, seat, spawn_task: run.task.is_none() && run.give_to_task(can_spawn) }
    }

    /// A caller is polled.
    pub(crate) fn find(&self, index: u32, seat: Seat, waker: &Waker, fresh: &mut Option<Waker>) -> Found<W, O> {
        let mut stale = None;
        let mut garbage = None;
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        let found = match &run.state {
            State::Landed(_) | State::Ended => {
                let rest = garbage.insert(self.disembark(&mut runs, index, seat));
                rest.landed.take().map_or(Found::Again, Found::Landed)
            }
            State::Here(_) if matches!(run.driver, Driver::Anyone) || run.driver == Driver::Caller(seat) => {
                run.driver = Driver::Caller(seat);
                Found::Drive(run.take_work())
            }
            State::Here(_) | State::Out | State::Ending => {
                let known = run.seats.waker(seat);
                if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
                    Found::Pending
                } else if let Some(fresh) = fresh.take() {
                    stale = known.replace(fresh);
                    Found::Pending
                } else {
                    Found::WantsWaker
                }
            }
        };
        drop(runs);
        drop((stale, garbage));
        found
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
        let stale = run.seats.waker(seat).replace(waker);
        match run.driver {
            // It came meanwhile, and found the work away.
            Driver::Task => rest.wakers.extend(run.task.as_mut().and_then(Option::take)),
            Driver::Anyone => run.driver = Driver::Caller(seat),
            Driver::Caller(_) => {}
        }
        rest.spawn_task = run.callers > 1 && run.task.is_none() && run.give_to_task(can_spawn);
        drop(runs);
        drop(stale);
        rest
    }

    /// The task has polled the work, which goes on.
    pub(crate) fn put_back_by_task(&self, index: u32, work: W, waker: Waker) -> Rest<K, W, O> {
        let mut rest = Rest::nothing();
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        if matches!(run.state, State::Ending) {
            run.task = None;
            rest.cancelled = Some(work);
            return rest;
        }
        run.state = State::Here(work);
        let stale = run.task.replace(Some(waker));
        drop(runs);
        drop(stale);
        rest
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
            Pilot::Task => run.task = None,
            Pilot::Caller(_) => {
                run.callers -= 1;
                self.tally.callers.subtract_alone(1);
                rest.wakers.extend(run.task.as_mut().and_then(Option::take));
            }
        }
        let is_wanted = matches!(run.state, State::Out) && run.callers > 0;
        if matches!(run.state, State::Ending) {
            // Nobody wanted it when it was last looked at, and who came since then starts anew.
            self.tally.cancelled.add_alone(1);
        }
        rest.wakers.append(&mut run.seats.take_wakers());
        let landing = if is_wanted {
            let outcome = share(result);
            run.state = State::Landed(outcome.clone());
            Landing::Shared(outcome)
        } else {
            run.state = State::Ended;
            Landing::Own(result)
        };
        self.remove_if_over(&mut runs, index, &mut rest);
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
        self.tally.callers.subtract_alone(1);
        let gone = run.seats.leave(seat);
        if run.callers > 0 {
            // It may be the one that was woken to drive. Whoever came since then was not.
            if matches!(run.driver, Driver::Anyone) || run.driver == Driver::Caller(seat) {
                run.driver = Driver::Anyone;
                rest.wakers = run.seats.take_wakers();
            }
        } else if detached && run.task.is_none() {
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
        self.tally.cancelled.add_alone(1);
        let run = runs.value(index);
        run.state = State::Ended;
        rest.wakers = run.seats.take_wakers();
        self.remove_if_over(&mut runs, index, &mut rest);
        rest
    }

    /// The task is polled.
    pub(crate) fn find_by_task(&self, index: u32, waker: &Waker, fresh: &mut Option<Waker>) -> TaskFound<W> {
        let mut rest = Rest::<K, W, O>::nothing();
        let mut stale = None;
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        let found = match run.state {
            State::Here(_) => TaskFound::Drive(run.take_work()),
            // A caller polls it, who wakes the task when it puts it back.
            State::Out => {
                let known = run.task.as_mut().expect("the task has its share until it is over");
                if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
                    TaskFound::Pending
                } else if let Some(fresh) = fresh.take() {
                    stale = known.replace(fresh);
                    TaskFound::Pending
                } else {
                    TaskFound::WantsWaker
                }
            }
            State::Ending | State::Ended | State::Landed(_) => {
                stale = run.task.take().flatten();
                self.remove_if_over(&mut runs, index, &mut rest);
                TaskFound::Over
            }
        };
        drop(runs);
        drop((stale, rest));
        found
    }

    /// The task is dropped before it was over, with its runtime: someone else has to drive.
    pub(crate) fn lose_task(&self, index: u32) -> Rest<K, W, O> {
        let mut rest = Rest::nothing();
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        let gone = run.task.take();
        if matches!(run.state, State::Out | State::Here(_)) {
            run.driver = Driver::Anyone;
            if run.callers > 0 {
                rest.wakers = run.seats.take_wakers();
            } else {
                self.cancel(run, &mut rest);
            }
        } else {
            self.remove_if_over(&mut runs, index, &mut rest);
        }
        drop(runs);
        drop(gone);
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
    fn cancel(&self, run: &mut Run<W, O>, rest: &mut Rest<K, W, O>) {
        self.uncount(run);
        if let State::Here(work) = mem::replace(&mut run.state, State::Ending) {
            rest.cancelled = Some(work);
        }
        rest.wakers.extend(run.task.as_mut().and_then(Option::take));
    }

    /// A caller leaves a run that is over, or that it had no share in.
    fn disembark(&self, runs: &mut Table<K, Run<W, O>>, index: u32, seat: Seat) -> Rest<K, W, O> {
        let mut rest = Rest::nothing();
        let run = runs.value(index);
        run.callers -= 1;
        self.tally.callers.subtract_alone(1);
        if let State::Landed(outcome) = &run.state {
            rest.landed = Some(outcome.clone());
        }
        let gone = run.seats.leave(seat);
        rest._seats = Some(Seats { first: gone, others: Slab::new() });
        self.remove_if_over(runs, index, &mut rest);
        rest
    }

    fn remove_if_over(&self, runs: &mut Table<K, Run<W, O>>, index: u32, rest: &mut Rest<K, W, O>) {
        let run = runs.value(index);
        let is_over = matches!(run.state, State::Ended | State::Landed(_)) && run.callers == 0 && run.task.is_none();
        if is_over {
            rest._garbage = Some(runs.remove(index));
        }
    }

    fn uncount(&self, run: &mut Run<W, O>) {
        if mem::replace(&mut run.is_counted, false) {
            self.tally.running.subtract_alone(1);
        }
    }
}

impl<W, O> Run<W, O> {
    fn new() -> Self {
        Self {
            state: State::Out,
            driver: Driver::Caller(Seat::FIRST),
            callers: 1,
            seats: Seats { first: None, others: Slab::new() },
            task: None,
            is_counted: true,
        }
    }

    /// A task drives it from now on, if one can be spawned.
    fn give_to_task(&mut self, can_spawn: impl FnOnce() -> bool) -> bool {
        let spawn_task = can_spawn();
        if spawn_task {
            self.task = Some(None);
            self.driver = Driver::Task;
        }
        spawn_task
    }

    fn take_work(&mut self) -> W {
        match mem::replace(&mut self.state, State::Out) {
            State::Here(work) => work,
            _ => unreachable!("the work is there where it is taken"),
        }
    }
}

impl Seat {
    const FIRST: Self = Self(0);
}

impl Seats {
    fn take(&mut self, waker: Option<Waker>) -> Seat {
        let position = u32::try_from(self.others.insert(waker)).expect("fewer than 2^32 callers");
        Seat(position + 1)
    }

    fn waker(&mut self, seat: Seat) -> &mut Option<Waker> {
        match seat.0.checked_sub(1) {
            None => &mut self.first,
            Some(position) => &mut self.others[position as usize],
        }
    }

    fn leave(&mut self, seat: Seat) -> Option<Waker> {
        match seat.0.checked_sub(1) {
            None => self.first.take(),
            Some(position) => self.others.remove(position as usize),
        }
    }

    /// Of all callers, which bring another one with their next poll if they have to.
    fn take_wakers(&mut self) -> Vec<Waker> {
        let others = self.others.iter_mut().filter_map(|(_, waker)| waker.take());
        self.first.take().into_iter().chain(others).collect()
    }
}
