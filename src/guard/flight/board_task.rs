//! The side of a [`Board`] that faces the task which drives a run.

use std::task::Waker;

use super::board::{Board, remove_if_over};
use super::found::{Rest, TaskFound};
use super::run::{Driver, State};
use crate::sync::lock;

impl<K: Eq, W, O: Clone> Board<K, W, O> {
    /// The task is polled.
    pub(crate) fn find_by_task(&self, index: u32, waker: &Waker, fresh: &mut Option<Waker>) -> TaskFound<W> {
        let mut rest = Rest::<K, W, O>::nothing();
        let mut stale = None;
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        run.note_task();
        let found = match run.state {
            State::Here(_) => TaskFound::Drive(run.take_work()),
            // A caller polls it, who wakes the task when it puts it back.
            State::Out => {
                let known = run.task_waker().expect("the task has its share until it is over");
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
                stale = run.end_task();
                rest.garbage = remove_if_over(&mut runs, index);
                TaskFound::Over
            }
        };
        drop(runs);
        drop((stale, rest));
        found
    }

    /// The task has polled the work, which goes on.
    pub(crate) fn put_back_by_task(&self, index: u32, work: W, waker: Waker) -> Rest<K, W, O> {
        let mut rest = Rest::nothing();
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        if matches!(run.state, State::Ending) {
            let gone = run.end_task();
            drop(runs);
            drop(gone);
            rest.cancelled = Some(work);
            return rest;
        }
        run.state = State::Here(work);
        let stale = run.task_waker().and_then(|known| known.replace(waker));
        drop(runs);
        drop(stale);
        rest
    }

    /// The task is dropped before it was over, with its runtime: someone else has to drive.
    pub(crate) fn lose_task(&self, index: u32) -> Rest<K, W, O> {
        let mut rest = Rest::nothing();
        let mut runs = lock(&self.runs);
        let run = runs.value(index);
        let gone = run.end_task();
        if matches!(run.state, State::Out | State::Here(_)) {
            run.driver = Driver::Anyone;
            if run.callers > 0 {
                rest.wakers = run.take_wakers();
            } else {
                self.cancel(run, &mut rest);
            }
        } else {
            rest.garbage = remove_if_over(&mut runs, index);
        }
        drop(runs);
        drop(gone);
        rest
    }
}
