//! [`WorkDrain`], the wait for the work that must not be lost when a host ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::background::status::{ManagedList, UnfinishedWork};
use crate::detached;
use crate::managed::Managed;
use crate::panic::{catch, discard};

/// What a host closes and drains, and the work that continues without its caller.
pub(crate) struct WorkDrain {
    managed: Vec<ManagedEntry>,
    /// The waits in progress: the index of a managed value, or `None` for detached work.
    waits: JoinSet<Option<usize>>,
    /// Detached work that was cut before the stop began.
    cut_before: BTreeMap<Arc<str>, usize>,
}

struct ManagedEntry {
    name: Arc<str>,
    managed: Arc<dyn Managed>,
    /// `true` if the value is closed after the services instead of before.
    serves_services: bool,
    is_drained: bool,
}

impl WorkDrain {
    pub(crate) fn new(managed: ManagedList) -> Self {
        let entry = |managed: Arc<dyn Managed>| {
            let name = catch(|| Arc::from(managed.name())).unwrap_or_else(|_| "(unknown name)".into());
            let serves_services = catch(|| managed.snapshot()).is_ok_and(|snapshot| snapshot.serves_services());
            ManagedEntry { name, managed, serves_services, is_drained: false }
        };
        let managed = managed.0.into_iter().map(entry).collect();
        Self { managed, waits: JoinSet::new(), cut_before: BTreeMap::new() }
    }

    /// Returns `true` if there is something to close or to wait for before the services stop.
    pub(super) fn has_work(&self) -> bool {
        !detached::is_idle() || self.managed.iter().any(|entry| !entry.serves_services)
    }

    /// Returns `true` if there is something to close after the services have stopped.
    pub(super) fn has_pools(&self) -> bool {
        self.managed.iter().any(|entry| entry.serves_services)
    }

    /// Records the state at the beginning of the stop.
    pub(super) fn begin(&mut self) {
        self.cut_before = detached::cut_counts();
    }

    /// Closes what admits work: callers that wait are refused.
    pub(super) fn refuse_waiters(&self) {
        for entry in self.managed.iter().filter(|entry| !entry.serves_services) {
            // `close` may be user code.
            let _ = catch(|| entry.managed.close());
        }
    }

    /// Closes what admits work, and begins to wait for it and for detached work.
    ///
    /// A server that has just ended may be about to drop a handler, which then continues without its client: `settle`
    /// is the time for that.
    pub(super) fn drain_work(&mut self, settle: Duration) {
        self.close(false);
        self.waits.spawn(async move {
            if !settle.is_zero() {
                sleep(settle).await;
            }
            detached::drained().await;
            None
        });
    }

    /// Closes what the services needed, and begins to wait for it.
    pub(super) fn drain_pools(&mut self) {
        self.close(true);
    }

    /// Closes each managed value of one kind and begins to wait until it is drained.
    fn close(&mut self, serves_services: bool) {
        for (index, entry) in
            self.managed.iter().enumerate().filter(|(_, entry)| entry.serves_services == serves_services)
        {
            let managed = Arc::clone(&entry.managed);
            // `close` may be user code.
            let _ = catch(|| managed.close());
            self.waits.spawn(async move {
                managed.drained().await;
                Some(index)
            });
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waits.is_empty()
    }

    /// Waits until one of the waits has ended. Begins another wait if work was detached meanwhile.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no end is missed.
    pub(super) async fn progress(&mut self) {
        match self.waits.join_next().await {
            Some(Ok(Some(index))) => self.managed[index].is_drained = true,
            // A wait that panicked has ended too; `unfinished` checks the managed value again.
            other => discard(other),
        }
        self.wait_for_detached();
    }

    /// Begins to wait for detached work, unless there is none or another wait is in progress.
    pub(super) fn wait_for_detached(&mut self) {
        if self.waits.is_empty() && !detached::is_idle() {
            self.waits.spawn(async {
                detached::drained().await;
                None
            });
        }
    }

    /// Stops waiting.
    pub(super) fn give_up(&mut self) {
        self.waits = JoinSet::new();
    }

    /// Closes what is still open, and returns the work that did not end in time, by name.
    pub(super) fn unfinished(&self) -> Vec<UnfinishedWork> {
        let mut left = BTreeMap::<Arc<str>, usize>::new();
        for work in detached::running() {
            *left.entry(work.name().into()).or_default() += work.count();
        }
        for entry in self.managed.iter().filter(|entry| !entry.is_drained && !close_and_check(&*entry.managed)) {
            let active = catch(|| entry.managed.snapshot().active()).unwrap_or(0).max(1);
            let count = left.entry(Arc::clone(&entry.name)).or_default();
            // Detached work of a guard still holds its permits, and is counted already.
            *count = (*count).max(active);
        }
        for (name, count) in detached::cut_counts() {
            let before = self.cut_before.get(&name).copied().unwrap_or_default();
            if count > before {
                *left.entry(name).or_default() += count - before;
            }
        }
        left.into_iter().map(|(name, count)| UnfinishedWork { name, count }).collect()
    }

    /// Drops the managed values one by one: two destructors that panic at the same time would abort the process.
    pub(super) fn discard_values(&mut self) {
        self.managed.drain(..).for_each(discard);
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
