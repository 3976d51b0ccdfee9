//! [`FlightShard`], one shard of a [`FlightMap`](super::flight_map::FlightMap): the runs of some keys, protected by one
//! mutex.
//!
//! ```text
//!   start ──▶ Polling ◀──────────▶ Idle                 Polling: a driver polls the work right now
//!              │ │       poll       │
//!     complete │ │ last waiter      │ last waiter leaves
//!              ▼ ╰───▶ Cancelling ◀─╯                    Cancelling: the work is not dropped yet
//!          Completed        │ work dropped
//!              ╰▶ removed ◀── Ended
//! ```
//!
//! # Invariants
//!
//! 1. A key has at most one linked run, and a linked run is `Polling`, `Idle` or `Cancelling`. So the work of a key is
//!    neither polled nor dropped after other work of the key has started, unless the run was forgotten.
//! 2. A `Cancelling` run takes no followers. A caller that joins waits until the run has `Ended`, then starts another.
//! 3. A run's entry stays while the run has a waiter or a driver task, and while its work exists or is being polled.
//! 4. While the work is `Idle`, each driver that may poll it left a waker in the work at its last poll, or will be
//!    polled: the driver task was just spawned, or every waiter was just woken.
//! 5. Work, outcomes, keys and wakers are never polled, cloned, dropped or woken while the mutex is held. There are two
//!    exceptions: cloning an outcome increments a reference count, and keys are compared.

use std::borrow::Borrow;
use std::mem;
use std::task::Waker;

use super::outcome::{Completion, FlightDeferred, JoinOutcome, RunPoll};
use super::run_entry::{Driver, RunEntry, RunEntryState, RunWaiterId};
use crate::counter::Counter;
use crate::guard::key_map::{DeferredEntry, DeferredKey, Hash64, Table};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};

/// The runs of some keys. `W` is the work, `O` an outcome that is cheap to clone.
#[derive(Debug)]
pub(crate) struct FlightShard<K, W, O> {
    pub(super) runs: Mutex<Table<K, RunEntry<W, O>>>,
    pub(crate) counters: FlightCounters,
    /// Set while the mutex is held.
    is_closed: AtomicBool,
}

/// The values of an unshared run that must be dropped after the mutex is unlocked.
type DeferredRun<K, W, O> = (DeferredKey<K, RunEntry<W, O>>, Option<Waker>);

/// Counters that change only while the mutex is held.
#[derive(Debug)]
pub(crate) struct FlightCounters {
    /// Keys that have a run.
    pub(crate) running: Counter,
    /// Waiters of runs, including callers that wait for a cancelled run to end.
    pub(crate) waiting: Counter,
    /// Runs that were started.
    pub(crate) runs: Counter,
    /// Callers that joined another caller's run.
    pub(crate) shared: Counter,
    /// Runs that were cancelled.
    pub(crate) cancelled: Counter,
}

impl<K: Eq, W, O: Clone> FlightShard<K, W, O> {
    pub(crate) fn new() -> Self {
        let counters = FlightCounters {
            running: Counter::new(),
            waiting: Counter::new(),
            runs: Counter::new(),
            shared: Counter::new(),
            cancelled: Counter::new(),
        };
        Self { runs: Mutex::new(Table::new()), counters, is_closed: AtomicBool::new(false) }
    }

    /// Joins the run of a key, or starts one and takes the key.
    ///
    /// At most `max_callers` share a run. `is_inside` returns `true` if the caller is the work of the run with that
    /// index, `can_spawn` if a driver task can be spawned.
    #[inline]
    pub(crate) fn join(
        &self,
        hash: Hash64,
        key: &mut Option<K>,
        waker: &mut Option<Waker>,
        max_callers: usize,
        is_inside: impl Fn(u32) -> bool,
        can_spawn: impl FnOnce() -> bool,
    ) -> JoinOutcome {
        let mut runs = lock(&self.runs);
        if self.is_closed() {
            return JoinOutcome::Closed;
        }
        let Some(index) = runs.find(hash, key.as_ref().expect("a caller that joins has its key")) else {
            let key = key.take().expect("checked above");
            let index = runs.insert(hash, key, RunEntry::new());
            self.counters.running.add_exclusive(1);
            self.counters.waiting.add_exclusive(1);
            self.counters.runs.add_exclusive(1);
            return JoinOutcome::Started { index, id: RunWaiterId::LEADER };
        };
        if is_inside(index) {
            return JoinOutcome::WouldDeadlock;
        }
        let run = runs.value(index);
        if run.waiters >= max_callers {
            return JoinOutcome::Full;
        }
        let Some(waker) = waker.take() else { return JoinOutcome::NeedsWaker };
        run.waiters += 1;
        self.counters.waiting.add_exclusive(1);
        let id = run.add_follower(waker.into());
        if matches!(run.state, RunEntryState::Cancelling) {
            return JoinOutcome::Joined { index, id, spawn_task: false, needs_driver: false };
        }
        self.counters.shared.add_exclusive(1);
        let spawn_task = run.hand_to_task(can_spawn);
        let needs_driver = matches!(run.state, RunEntryState::Idle(_)) && run.driver.is_none();
        JoinOutcome::Joined { index, id, spawn_task, needs_driver }
    }

    /// Called when a waiter is polled. Registers `waker` if the waiter has to wait, as
    /// [`WakerSlot::register`](crate::waker_slot::WakerSlot::register) does.
    pub(crate) fn poll(&self, index: u32, id: RunWaiterId, waker: &Waker, spare: &mut Option<Waker>) -> RunPoll<W, O> {
        // Dropped after the guard, and thus after the mutex is unlocked. The values are dropped in place, because
        // moving them would take longer than everything else here.
        let _stale;
        let _removed;
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        let outcome = match &run.state {
            RunEntryState::Completed(outcome) => Some(outcome.clone()),
            RunEntryState::Ended => None,
            RunEntryState::Idle(_) if run.driver.is_none_or(|driver| driver == Driver::Waiter(id)) => {
                run.driver = Some(Driver::Waiter(id));
                return RunPoll::Drive(run.take_work());
            }
            RunEntryState::Idle(_) | RunEntryState::Polling | RunEntryState::Cancelling => {
                let is_registered = run.waker(id).register(waker, spare);
                return if is_registered { RunPoll::Pending } else { RunPoll::NeedsWaker };
            }
        };
        _stale = run.remove_waker(id);
        self.remove_waiter(run);
        _removed = remove_if_over(&mut runs, index);
        outcome.map_or(RunPoll::Rejoin, RunPoll::Completed)
    }

    /// Puts work back that a waiter has polled and that is still pending. `waker` is the waker that the work was polled
    /// with.
    pub(crate) fn put_back(
        &self,
        index: u32,
        id: RunWaiterId,
        work: W,
        waker: Waker,
        can_spawn: impl FnOnce() -> bool,
    ) -> FlightDeferred<K, W, O> {
        let mut deferred = FlightDeferred::new();
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        debug_assert!(
            matches!(run.state, RunEntryState::Polling),
            "a run is not cancelled while its driver waits for it"
        );
        run.state = RunEntryState::Idle(work);
        deferred.stale_waker = run.waker(id).replace(waker);
        match run.driver {
            // The task was polled meanwhile and could not get the work.
            Some(Driver::Task) => deferred.wakers.extend(run.take_task_waker()),
            Some(Driver::Waiter(_)) => {}
            None => run.driver = Some(Driver::Waiter(id)),
        }
        deferred.spawn_task = run.waiters > 1 && !run.cannot_run_tasks() && run.hand_to_task(can_spawn);
        deferred
    }

    /// Completes and removes a run that was never shared. Returns `None` if the run is, or was, shared.
    ///
    /// The returned waker is the leader's.
    #[inline]
    pub(crate) fn complete_unshared(&self, index: u32) -> Option<DeferredRun<K, W, O>> {
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        if !run.is_unshared() {
            return None;
        }
        self.stop_counting(run);
        self.counters.waiting.subtract_exclusive(1);
        let waker = run.remove_waker(RunWaiterId::LEADER);
        Some((runs.remove_and_drop_value(index), waker))
    }

    /// Completes a run with `result`, which `share` turns into an outcome if other waiters want it. The driver leaves
    /// the run.
    pub(crate) fn complete<R>(
        &self,
        index: u32,
        driver: Driver,
        result: R,
        share: impl FnOnce(R) -> O,
    ) -> (Completion<R, O>, FlightDeferred<K, W, O>) {
        let mut deferred = FlightDeferred::new();
        let mut runs = lock(&self.runs);
        runs.unlink(index);
        let run = runs.value(index);
        self.stop_counting(run);
        match driver {
            Driver::Task => deferred.stale_waker = run.remove_task(),
            Driver::Waiter(_) => {
                self.remove_waiter(run);
                deferred.wakers.extend(run.take_task_waker());
            }
        }
        let is_wanted = matches!(run.state, RunEntryState::Polling) && run.waiters > 0;
        if matches!(run.state, RunEntryState::Cancelling) {
            // All waiters had left, and callers that have joined since then start another run.
            self.counters.cancelled.add_exclusive(1);
        }
        deferred.wakers.append(&mut run.take_wakers());
        let completion = if is_wanted {
            let outcome = share(result);
            run.state = RunEntryState::Completed(outcome.clone());
            Completion::Shared(outcome)
        } else {
            run.state = RunEntryState::Ended;
            Completion::Unshared(result)
        };
        deferred.removed = remove_if_over(&mut runs, index);
        (completion, deferred)
    }

    /// Removes a waiter that stops waiting. A `detached` run continues without waiters if a task can drive it.
    pub(crate) fn leave(
        &self,
        index: u32,
        id: RunWaiterId,
        detached: bool,
        can_spawn: impl FnOnce() -> bool,
    ) -> FlightDeferred<K, W, O> {
        let mut deferred = FlightDeferred::new();
        let mut runs = lock(&self.runs);
        let key_hash = runs.hash(index);
        let run = runs.value(index);
        self.remove_waiter(run);
        deferred.stale_waker = run.remove_waker(id);
        match &run.state {
            RunEntryState::Polling | RunEntryState::Idle(_) if run.waiters > 0 => {
                // This waiter may have been woken to drive the run. Waiters that have joined since then were not woken.
                if run.driver.is_none_or(|driver| driver == Driver::Waiter(id)) {
                    run.driver = None;
                    deferred.wakers = run.take_wakers();
                }
            }
            RunEntryState::Polling | RunEntryState::Idle(_) => {
                deferred.spawn_task = detached && run.hand_to_task(can_spawn);
                if !(detached && run.has_task()) {
                    deferred.cancelled = Some(key_hash);
                    self.cancel(run, &mut deferred);
                }
            }
            RunEntryState::Cancelling | RunEntryState::Ended => deferred.removed = remove_if_over(&mut runs, index),
            RunEntryState::Completed(outcome) => {
                deferred.outcome = Some(outcome.clone());
                deferred.removed = remove_if_over(&mut runs, index);
            }
        }
        deferred
    }

    /// Returns the hash of a run's key.
    pub(super) fn key_hash(&self, index: u32) -> Hash64 {
        lock(&self.runs).hash(index)
    }

    /// Ends a cancelled run whose work has been dropped.
    pub(crate) fn finish_cancel(&self, index: u32) -> FlightDeferred<K, W, O> {
        let mut deferred = FlightDeferred::new();
        let mut runs = lock(&self.runs);
        runs.unlink(index);
        self.counters.cancelled.add_exclusive(1);
        let run = runs.value(index);
        run.state = RunEntryState::Ended;
        deferred.wakers = run.take_wakers();
        deferred.removed = remove_if_over(&mut runs, index);
        deferred
    }

    /// Makes the next caller of the key start a run, even if the current one has not ended. Returns `true` if the key
    /// had a run.
    pub(crate) fn forget<Q: Eq + ?Sized>(&self, hash: Hash64, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let mut runs = lock(&self.runs);
        let Some(index) = runs.find(hash, key) else { return false };
        let run = runs.value(index);
        if matches!(run.state, RunEntryState::Cancelling) {
            return false;
        }
        self.stop_counting(run);
        runs.unlink(index)
    }

    /// Refuses all callers from now on.
    pub(super) fn close(&self) {
        let _runs = lock(&self.runs);
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if the shard is closed. A caller that has just locked the mutex sees every earlier close.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Returns `true` if the shard is closed and no work is left. Outcomes that waiters have not taken do not count.
    pub(super) fn is_drained(&self) -> bool {
        let runs = lock(&self.runs);
        self.is_closed()
            && runs.values().all(|run| matches!(run.state, RunEntryState::Completed(_) | RunEntryState::Ended))
    }

    /// Cancels a run without waiters. The work is dropped by the caller, or by the driver that polls it right now.
    pub(super) fn cancel(&self, run: &mut RunEntry<W, O>, deferred: &mut FlightDeferred<K, W, O>) {
        self.stop_counting(run);
        if let RunEntryState::Idle(work) = mem::replace(&mut run.state, RunEntryState::Cancelling) {
            deferred.cancelled_work = Some(work);
        }
        deferred.wakers.extend(run.take_task_waker());
    }

    fn remove_waiter(&self, run: &mut RunEntry<W, O>) {
        run.waiters -= 1;
        self.counters.waiting.subtract_exclusive(1);
    }

    fn stop_counting(&self, run: &mut RunEntry<W, O>) {
        if mem::replace(&mut run.is_counted, false) {
            self.counters.running.subtract_exclusive(1);
        }
    }
}

pub(super) fn remove_if_over<K: Eq, W, O>(
    runs: &mut Table<K, RunEntry<W, O>>,
    index: u32,
) -> Option<DeferredEntry<K, RunEntry<W, O>>> {
    runs.value(index).is_over().then(|| runs.remove(index))
}
