//! [`FlightMap`], the runs of one single flight by key, shared by callers and driver tasks.

use std::hash::Hash;
use std::mem;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::driver_task::DriverTask;
use super::outcome::{Completion, FlightDeferred};
use super::run_entry::Driver;
use super::run_error::RunError;
use super::shard::FlightShard;
use super::trace;
use super::work_future::{RunOutcome, WorkFuture};
use crate::counter::Counter;
use crate::detached::DetachedEntry;
use crate::guard::key_map::{EntryId, Sharded};
use crate::panic::FirstPanic;
use crate::scope::{Hold, Scope, ScopeId};
use crate::wake::wake_all;

type ShardOf<K, T, E> = FlightShard<K, WorkFuture<T, E>, Arc<RunOutcome<T, E>>>;
type DeferredOf<K, T, E> = FlightDeferred<K, WorkFuture<T, E>, Arc<RunOutcome<T, E>>>;

pub(super) struct FlightMap<K, T, E> {
    pub(super) shards: Sharded<ShardOf<K, T, E>>,
    pub(super) panicked: Counter,
    pub(super) name: &'static str,
    /// `true` if runs may continue without callers.
    is_detached: bool,
    /// Notified when a run of the closed flight may have been the last one.
    pub(super) drained: Notify,
}

impl<K, T, E> FlightMap<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    pub(super) fn new(name: &'static str, is_detached: bool) -> Arc<Self> {
        Arc::new(Self {
            shards: Sharded::new(FlightShard::new),
            panicked: Counter::new(),
            name,
            is_detached,
            drained: Notify::new(),
        })
    }

    #[inline]
    pub(super) fn shard(&self, entry: EntryId) -> &ShardOf<K, T, E> {
        self.shards.shard(entry.shard())
    }

    /// Identifies a run while its work is polled or dropped.
    #[inline]
    pub(super) fn scope(&self, entry: EntryId) -> ScopeId {
        (std::ptr::from_ref(self).addr(), entry.to_bits())
    }

    /// Completes a run: its waiters get the outcome, and so does the driver.
    #[inline]
    pub(super) fn complete(
        self: &Arc<Self>,
        entry: EntryId,
        driver: Driver,
        outcome: RunOutcome<T, E>,
    ) -> Completion<RunOutcome<T, E>, Arc<RunOutcome<T, E>>> {
        if let Err(RunError::Panicked(panic)) = &outcome {
            self.panicked.add(1);
            trace::panicked(self, entry, panic);
        }
        let (completion, deferred) = self.shard(entry).complete(entry.index(), driver, outcome, Arc::new);
        self.run_deferred(entry, deferred);
        completion
    }

    /// Runs what an operation deferred until the mutex is unlocked.
    #[inline]
    pub(super) fn run_deferred(self: &Arc<Self>, entry: EntryId, mut deferred: DeferredOf<K, T, E>) {
        if let Some(key_hash) = deferred.cancelled {
            trace::cancelled(self.name, key_hash);
        }
        if deferred.spawn_task {
            self.spawn_driver(entry);
        }
        let mut panics = FirstPanic::default();
        if !deferred.wakers.is_empty() {
            panics.run(|| wake_all(mem::take(&mut deferred.wakers)));
        }
        // If a panic above skipped this drop, the run would stay in its cancelling state forever.
        if let Some(work) = deferred.cancelled_work.take() {
            panics.run(|| self.drop_cancelled(entry, work));
        }
        if self.shard(entry).is_closed() {
            panics.run(|| self.drained.notify_waiters());
        }
        panics.finish(|| drop(deferred));
    }

    /// Drops the work of a cancelled run. Callers that join meanwhile wait until the work is dropped.
    #[cold]
    fn drop_cancelled(self: &Arc<Self>, entry: EntryId, work: WorkFuture<T, E>) {
        let mut hold = Hold::default();
        let scope = Scope::enter(self.scope(entry), &mut hold);
        drop(work);
        drop(scope);
        // The entry may be reused from the next statement on.
        drop(hold);
        let mut panics = FirstPanic::default();
        panics.run(|| wake_all(self.shard(entry).finish_cancel(entry.index()).wakers));
        panics.finish(|| self.notify_if_closed(entry));
    }

    /// Notifies the callers of `drained` if the flight is closed. Called after an entry may have been removed.
    #[inline]
    pub(super) fn notify_if_closed(&self, entry: EntryId) {
        if self.shard(entry).is_closed() {
            self.drained.notify_waiters();
        }
    }

    /// Spawns the driver task that the run relies on.
    #[cold]
    pub(super) fn spawn_driver(self: &Arc<Self>, entry: EntryId) {
        let task = DriverTask::new(Arc::clone(self), entry, self.is_detached.then(|| DetachedEntry::new(self.name)));
        // Without a runtime the task is dropped here, and hands the run to its waiters.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(task);
        }
    }
}

/// Returns `true` if a driver task can be spawned on this thread.
pub(super) fn can_spawn() -> bool {
    Handle::try_current().is_ok()
}
