//! [`Registry`], which finds the [`Workers`] of a runtime.

use std::sync::Arc;

use super::workers::Workers;
use crate::offload::error::OffloadErrorKind;
use crate::sync::ArcSwap;

/// The workers of a pool by the id of their runtime. Each submission reads it, without a lock.
#[derive(Debug)]
pub(super) struct Registry<K> {
    entries: ArcSwap<Vec<RegistryEntry<K>>>,
}

#[derive(Clone, Debug)]
struct RegistryEntry<K> {
    id: K,
    workers: Arc<Workers>,
}

impl<K: Copy + Eq> Registry<K> {
    pub(super) fn find(&self, id: K) -> Option<Arc<Workers>> {
        self.entries.load().iter().find(|entry| entry.id == id).map(|entry| Arc::clone(&entry.workers))
    }

    pub(super) fn all(&self) -> Vec<Arc<Workers>> {
        self.entries.load().iter().map(|entry| Arc::clone(&entry.workers)).collect()
    }

    /// Adds the workers of a runtime, and removes those that are drained. If the pool was closed in the meantime, the
    /// new workers are closed too.
    ///
    /// # Errors
    ///
    /// Returns the workers that another caller registered first for this runtime.
    pub(super) fn register(&self, id: K, workers: &Arc<Workers>) -> Result<(), Arc<Workers>> {
        let entry = RegistryEntry { id, workers: Arc::clone(workers) };
        self.entries.rcu(|entries| {
            let is_known = entries.iter().any(|known| known.id == id);
            let others = entries.iter().filter(|known| !known.workers.is_drained()).cloned();
            others.chain((!is_known).then(|| entry.clone())).collect::<Vec<_>>()
        });
        if let Some(first) = self.find(id).filter(|first| !Arc::ptr_eq(first, workers)) {
            return Err(first);
        }
        if workers.config.is_closed_after_registration() {
            workers.close(OffloadErrorKind::Closed);
        }
        Ok(())
    }

    pub(super) fn remove(&self, id: K) {
        self.entries.rcu(|entries| entries.iter().filter(|entry| entry.id != id).cloned().collect::<Vec<_>>());
    }
}

impl<K> Default for Registry<K> {
    fn default() -> Self {
        Self { entries: ArcSwap::default() }
    }
}
