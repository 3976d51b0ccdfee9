//! [`DriverTask`], the spawned task that drives a run with followers.

use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::flight_map::FlightMap;
use super::outcome::DriverTaskPoll;
use super::run_entry::Driver;
use super::trace;
use crate::detached::DetachedEntry;
use crate::guard::key_map::EntryId;

/// Polls the work of a run so that no waiter has to: a waiter that is not polled, or leaves, delays no other waiter.
pub(super) struct DriverTask<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    map: Arc<FlightMap<K, T, E>>,
    entry: EntryId,
    is_finished: bool,
    /// Set if the run may continue without callers.
    detached: Option<DetachedEntry>,
}

impl<K, T, E> DriverTask<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    pub(super) fn new(map: Arc<FlightMap<K, T, E>>, entry: EntryId, detached: Option<DetachedEntry>) -> Self {
        Self { map, entry, is_finished: false, detached }
    }

    fn poll_run(&mut self, cx: &mut Context<'_>) {
        let shard = self.map.shard(self.entry);
        let mut spare = None;
        let mut work = loop {
            match shard.poll_by_task(self.entry.index(), cx.waker(), &mut spare) {
                DriverTaskPoll::Drive(work) => break work,
                DriverTaskPoll::Pending => return,
                DriverTaskPoll::NeedsWaker => spare = Some(cx.waker().clone()),
                DriverTaskPoll::Finished => {
                    self.is_finished = true;
                    return;
                }
            }
        };
        let poll = work.poll(self.map.scope(self.entry), cx);
        if let Poll::Ready(outcome) = poll {
            self.is_finished = true;
            let _completion = self.map.complete(self.entry, Driver::Task, outcome);
            return;
        }
        let deferred = shard.put_back_by_task(self.entry.index(), work, cx.waker().clone());
        self.is_finished = deferred.cancelled_work.is_some();
        self.map.run_deferred(self.entry, deferred);
    }
}

impl<K, T, E> Future for DriverTask<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_run(cx);
        if self.is_finished { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<K, T, E> Drop for DriverTask<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// Hands the run back to its waiters, which may be on other runtimes, if the task's runtime shuts down.
    fn drop(&mut self) {
        if !self.is_finished {
            let deferred = self.map.shard(self.entry).lose_task(self.entry.index());
            // A run that still has waiters goes on with them.
            self.is_finished = deferred.cancelled_work.is_none();
            if deferred.cancelled_work.is_some() {
                trace::cut_off(&self.map, self.entry);
            }
            self.map.run_deferred(self.entry, deferred);
        }
        if let Some(detached) = self.detached.as_mut().filter(|_| self.is_finished) {
            detached.finish();
        }
    }
}
