//! The synchronization primitives of the models: loom's, and stand-ins for the ones that loom does not have.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
pub(crate) use loom::thread::ThreadId;

use self::atomic::{AtomicUsize, Ordering};
use super::lock;

/// Identifies the current thread of the model.
pub(crate) fn thread_id() -> ThreadId {
    loom::thread::current().id()
}

/// Waits for a notification. No time passes in a model: the wait times out as soon as the other threads have run.
pub(crate) fn wait_timeout<'a, T>(
    mutex: &'a Mutex<T>,
    _condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    _limit: Duration,
) -> MutexGuard<'a, T> {
    drop(guard);
    loom::thread::yield_now();
    lock(mutex)
}

/// A stand-in for `arc_swap::ArcSwap` whose atomic operations are visible to loom.
///
/// Provides only the orderings that the registry relies on: loads acquire, and exchanges acquire and release.
#[derive(Debug)]
pub(crate) struct ArcSwap<T> {
    /// The index of the current version.
    current: AtomicUsize,
    /// std's mutex, which adds no synchronization to the model.
    versions: StdMutex<Vec<Arc<T>>>,
}

impl<T> ArcSwap<T> {
    pub(crate) fn load(&self) -> Arc<T> {
        self.version(self.current.load(Ordering::Acquire))
    }

    pub(crate) fn rcu<R: Into<Arc<T>>>(&self, mut update: impl FnMut(&Arc<T>) -> R) {
        loop {
            let seen = self.current.load(Ordering::Acquire);
            let next = update(&self.version(seen)).into();
            let index = {
                let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
                versions.push(next);
                versions.len() - 1
            };
            if self.current.compare_exchange(seen, index, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }

    fn version(&self, index: usize) -> Arc<T> {
        Arc::clone(&self.versions.lock().unwrap_or_else(PoisonError::into_inner)[index])
    }
}

impl<T: Default> Default for ArcSwap<T> {
    fn default() -> Self {
        Self { current: AtomicUsize::new(0), versions: StdMutex::new(vec![Arc::default()]) }
    }
}
