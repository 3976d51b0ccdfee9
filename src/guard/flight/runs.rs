//! [`Runs`], what the callers and the tasks of one single flight share.

use std::hash::Hash;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::board::Board;
use super::driver::Driver;
use super::error::FlightError;
use super::found::{Landing, Pilot, Rest};
use super::work::{Outcome, Work};
use crate::counter::Counter;
use crate::guard::key_map::{EntryId, Sharded};
use crate::guard::scope::{Scope, ScopeId};
use crate::semaphore::wake_all;

pub(super) type Runway<K, T, E> = Board<K, Work<T, E>, Arc<Outcome<T, E>>>;
type RunwayRest<K, T, E> = Rest<K, Work<T, E>, Arc<Outcome<T, E>>>;

pub(super) struct Runs<K, T, E> {
    pub(super) boards: Sharded<Runway<K, T, E>>,
    pub(super) panicked: Counter,
}

impl<K, T, E> Runs<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { boards: Sharded::new(Board::new), panicked: Counter::new() })
    }

    #[inline]
    pub(super) fn board(&self, spot: EntryId) -> &Runway<K, T, E> {
        self.boards.shard(spot.shard())
    }

    /// Names a run while its work is polled or dropped.
    #[inline]
    pub(super) fn scope(&self, spot: EntryId) -> ScopeId {
        (std::ptr::from_ref(self).addr(), spot.to_bits())
    }

    /// The work has ended: the others get its outcome, and so does the pilot.
    #[inline]
    pub(super) fn land(
        self: &Arc<Self>,
        spot: EntryId,
        pilot: Pilot,
        outcome: Outcome<T, E>,
    ) -> Landing<Outcome<T, E>, Arc<Outcome<T, E>>> {
        if matches!(outcome, Err(FlightError::Panicked { .. })) {
            self.panicked.add(1);
        }
        let (landing, rest) = self.board(spot).land(spot.index(), pilot, outcome, Arc::new);
        self.settle(spot, rest);
        landing
    }

    /// Does what a section under the mutex left to do.
    #[inline]
    pub(super) fn settle(self: &Arc<Self>, spot: EntryId, mut rest: RunwayRest<K, T, E>) {
        if rest.spawn_task {
            self.spawn(spot);
        }
        if !rest.wakers.is_empty() {
            wake_all(std::mem::take(&mut rest.wakers));
        }
        if let Some(work) = rest.cancelled.take() {
            self.discard(spot, work);
        }
    }

    /// Drops the work of a cancelled run. Until then, who comes waits.
    #[cold]
    fn discard(self: &Arc<Self>, spot: EntryId, work: Work<T, E>) {
        let scope = Scope::enter(self.scope(spot));
        drop(work);
        drop(scope);
        let rest = self.board(spot).end(spot.index());
        wake_all(rest.wakers);
    }

    /// Spawns the task that the run at that spot counts on.
    #[cold]
    pub(super) fn spawn(self: &Arc<Self>, spot: EntryId) {
        let driver = Driver::new(Arc::clone(self), spot);
        // Without a runtime it is dropped, and says that it is gone.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(driver);
        }
    }
}

/// Whether a task can be spawned here.
pub(super) fn can_spawn() -> bool {
    Handle::try_current().is_ok()
}
