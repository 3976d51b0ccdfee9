//! [`ArcSwap`], a stand-in for `arc_swap::ArcSwap` whose atomic operations are visible to loom.

use std::sync::{Arc, Mutex, PoisonError};

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Promises what the registry relies on and nothing beyond it: loads acquire, and exchanges acquire and release.
#[derive(Debug)]
pub(super) struct ArcSwap<T> {
    /// The index of the current version.
    current: AtomicUsize,
    /// std's mutex, which adds no synchronization to the model.
    versions: Mutex<Vec<Arc<T>>>,
}

impl<T> ArcSwap<T> {
    pub(super) fn load(&self) -> Arc<T> {
        self.version(self.current.load(Ordering::Acquire))
    }

    pub(super) fn rcu<R: Into<Arc<T>>>(&self, mut update: impl FnMut(&Arc<T>) -> R) {
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
        Self { current: AtomicUsize::new(0), versions: Mutex::new(vec![Arc::default()]) }
    }
}
