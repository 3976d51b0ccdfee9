//! [`Driver`], the task that polls a run's work when several callers wait for it.

use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::found::{Pilot, TaskFound};
use super::runs::Runs;
use crate::guard::key_map::EntryId;
use crate::guard::scope::Scope;

/// Polls a run's work so that no caller has to: one that is not polled itself, or leaves, holds up nobody.
pub(super) struct Driver<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    runs: Arc<Runs<K, T, E>>,
    spot: EntryId,
    is_over: bool,
}

impl<K, T, E> Driver<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    pub(super) fn new(runs: Arc<Runs<K, T, E>>, spot: EntryId) -> Self {
        Self { runs, spot, is_over: false }
    }
}

impl<K, T, E> Future for Driver<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let board = this.runs.board(this.spot);
        let mut fresh = None;
        let mut work = loop {
            match board.find_by_task(this.spot.index(), cx.waker(), &mut fresh) {
                TaskFound::Drive(work) => break work,
                TaskFound::Pending => return Poll::Pending,
                TaskFound::WantsWaker => fresh = Some(cx.waker().clone()),
                TaskFound::Over => {
                    this.is_over = true;
                    return Poll::Ready(());
                }
            }
        };
        let scope = Scope::enter(this.runs.scope(this.spot));
        let poll = work.poll(cx);
        drop(scope);
        if let Poll::Ready(outcome) = poll {
            this.is_over = true;
            let _landing = this.runs.land(this.spot, Pilot::Task, outcome);
            return Poll::Ready(());
        }
        let rest = board.put_back_by_task(this.spot.index(), work, cx.waker().clone());
        this.is_over = rest.cancelled.is_some();
        this.runs.settle(this.spot, rest);
        if this.is_over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<K, T, E> Drop for Driver<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// The runtime ends: callers on other runtimes go on with the work.
    fn drop(&mut self) {
        if !self.is_over {
            let rest = self.runs.board(self.spot).lose_task(self.spot.index());
            self.runs.settle(self.spot, rest);
        }
    }
}
