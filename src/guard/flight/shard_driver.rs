//! The operations of a [`FlightShard`] for the task that drives a run.

use std::task::Waker;

use super::outcome::{DriverTaskPoll, FlightDeferred};
use super::run_entry::RunState;
use super::shard::{FlightShard, remove_if_over};
use crate::sync::lock;

impl<K: Eq, W, O: Clone> FlightShard<K, W, O> {
    /// Called when the driver task is polled. Registers `waker` if the task has to wait.
    pub(crate) fn poll_by_task(&self, index: u32, waker: &Waker, spare: &mut Option<Waker>) -> DriverTaskPoll<W> {
        // Dropped after the guard, and thus after the mutex is unlocked.
        let _stale;
        let _removed;
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        run.note_task_poll();
        match run.state {
            RunState::Idle(_) => DriverTaskPoll::Drive(run.take_work()),
            // A waiter polls the work. It wakes the task when it puts the work back.
            RunState::Polling => {
                let slot = run.task_waker().expect("the run has the task until the task is finished");
                if slot.register(waker, spare) { DriverTaskPoll::Pending } else { DriverTaskPoll::NeedsWaker }
            }
            RunState::Cancelling | RunState::Ended | RunState::Completed(_) => {
                _stale = run.remove_task();
                _removed = remove_if_over(&mut runs, index);
                DriverTaskPoll::Finished
            }
        }
    }

    /// Puts work back that the driver task has polled and that is still pending. If the run was cancelled meanwhile,
    /// the work is returned and the task is finished.
    pub(crate) fn put_back_by_task(&self, index: u32, work: W, waker: Waker) -> FlightDeferred<K, W, O> {
        let mut deferred = FlightDeferred::new();
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        if matches!(run.state, RunState::Cancelling) {
            deferred.stale_waker = run.remove_task();
            deferred.cancelled_work = Some(work);
        } else {
            run.state = RunState::Idle(work);
            deferred.stale_waker = run.task_waker().and_then(|slot| slot.replace(waker));
        }
        deferred
    }

    /// Called when the driver task is dropped before it is finished, because its runtime shuts down. The waiters take
    /// over.
    pub(crate) fn lose_task(&self, index: u32) -> FlightDeferred<K, W, O> {
        let mut deferred = FlightDeferred::new();
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        deferred.stale_waker = run.remove_task();
        if !matches!(run.state, RunState::Polling | RunState::Idle(_)) {
            deferred.removed = remove_if_over(&mut runs, index);
            return deferred;
        }
        run.driver = None;
        if run.waiters > 0 {
            deferred.wakers = run.take_wakers();
        } else {
            self.cancel(run, &mut deferred);
        }
        deferred
    }
}
