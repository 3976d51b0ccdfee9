//! [`WorkDrain`], the wait for the work that must not be lost when a host ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::task::JoinSet;

use crate::background::status::{ManagedList, UnfinishedWork};
use crate::detached;
use crate::managed::Managed;
use crate::panic::catch;

/// What a host closes and drains, and the work that continues without its caller.
pub(crate) struct WorkDrain {
    /// Closed before the services stop.
    guards: Vec<Arc<dyn Managed>>,
    /// Closed after the services have stopped.
    pools: Vec<Arc<dyn Managed>>,
    /// The waits in progress.
    waits: JoinSet<()>,
    /// Detached work that was cut before the stop began.
    cut_before: BTreeMap<Arc<str>, usize>,
}

impl WorkDrain {
    pub(crate) fn new(managed: ManagedList) -> Self {
        let serves_services =
            |managed: &Arc<dyn Managed>| catch(|| managed.snapshot()).is_ok_and(|snapshot| snapshot.serves_services());
        let (pools, guards) = managed.0.into_iter().partition(serves_services);
        Self { guards, pools, waits: JoinSet::new(), cut_before: BTreeMap::new() }
    }

    /// Returns `true` if there is something to close or to wait for before the services stop.
    pub(super) fn has_work(&self) -> bool {
        !self.guards.is_empty() || !detached::is_idle()
    }

    /// Returns `true` if there is something to close after the services have stopped.
    pub(super) fn has_pools(&self) -> bool {
        !self.pools.is_empty()
    }

    /// Records the state at the beginning of the stop.
    pub(super) fn begin(&mut self) {
        self.cut_before = detached::cut_counts();
    }

    /// Closes what admits work, and begins to wait for it and for detached work.
    pub(super) fn drain_work(&mut self) {
        close(&self.guards, &mut self.waits);
        self.waits.spawn(detached::drained());
    }

    /// Closes what the services needed, and begins to wait for it.
    pub(super) fn drain_pools(&mut self) {
        close(&self.pools, &mut self.waits);
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waits.is_empty()
    }

    /// Waits until one of the waits has ended. Returns `true` if it was the last one.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no end is missed.
    pub(super) async fn progress(&mut self) -> bool {
        // A wait that panics has ended, too: `unfinished` looks at what it was for.
        let _ = self.waits.join_next().await;
        self.waits.is_empty()
    }

    /// Stops waiting.
    pub(super) fn give_up(&mut self) {
        self.waits = JoinSet::new();
    }

    /// Closes what is still open, and returns the work that was not waited for to its end, by name.
    pub(super) fn unfinished(&self) -> Vec<UnfinishedWork> {
        let mut by_name = BTreeMap::<Arc<str>, usize>::new();
        for (name, count) in detached::cut_counts() {
            let before = self.cut_before.get(&name).copied().unwrap_or_default();
            if count > before {
                by_name.insert(name, count - before);
            }
        }
        for work in detached::running() {
            *by_name.entry(work.name().into()).or_default() += work.count();
        }
        for managed in self.guards.iter().chain(&self.pools).filter(|managed| !close_and_check(&***managed)) {
            // Detached work of a guard still holds its permits, and is counted already.
            if let Ok((name, active)) = catch(|| (Arc::from(managed.name()), managed.snapshot().active())) {
                let count = by_name.entry(name).or_default();
                *count = (*count).max(active).max(1);
            }
        }
        by_name.into_iter().map(|(name, count)| UnfinishedWork { name, count }).collect()
    }
}

/// Closes each of them and begins to wait for it.
fn close(all: &[Arc<dyn Managed>], waits: &mut JoinSet<()>) {
    for managed in all {
        // The code may be a user's.
        let _ = catch(|| managed.close());
        let managed = Arc::clone(managed);
        waits.spawn(async move { managed.drained().await });
    }
}

/// Closes `managed`, unless it is closed, and returns `true` if it is drained.
fn close_and_check(managed: &dyn Managed) -> bool {
    let check = || {
        managed.close();
        managed.drained().as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    catch(check).unwrap_or(false)
}
