//! [`Runtimes`], the crews of a pool that runs its tasks on the threads of tokio.
//!
//! Each runtime has its own: a thread of one runtime that ran the tasks of another would keep the first from shutting down
//! as long as the other has work.

use std::future::pending;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use tokio::runtime::{Handle, Id};
use tokio::task::AbortHandle;

use super::config::{Threads, WorkersConfig};
use super::worker::Worker;
use super::workers::Workers;
use crate::offload::error::OffloadError;
use crate::panic::catch;
use crate::sync::{Mutex, lock};

/// A crew for each runtime from which the pool is used.
#[derive(Debug, Default)]
pub(crate) struct Runtimes(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    crews: ArcSwap<Vec<Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    id: Id,
    crew: Arc<Workers>,
}

impl Runtimes {
    /// The crew of the runtime that the caller is in.
    pub(crate) fn crew_here(&self, rules: &Arc<WorkersConfig>) -> Result<Arc<Workers>, OffloadError> {
        let runtime = Handle::try_current().map_err(|_| OffloadError::NoRuntime)?;
        let id = runtime.id();
        let known = self.0.find(id).map(|entry| entry.crew);
        Ok(known.unwrap_or_else(|| self.new_crew(rules, &runtime)))
    }

    #[cold]
    fn new_crew(&self, rules: &Arc<WorkersConfig>, runtime: &Handle) -> Arc<Workers> {
        let id = runtime.id();
        let watch = Arc::new(OnceLock::new());
        let threads = OfRuntime { runtime: runtime.clone(), watch: Arc::clone(&watch) };
        let crew = Workers::new(Arc::clone(rules), Box::new(threads));
        let entry = Entry { id, crew: Arc::clone(&crew) };
        self.0.crews.rcu(|crews| {
            let is_known = crews.iter().any(|known| known.id == id);
            let others = crews.iter().filter(|known| !known.crew.is_drained()).cloned();
            others.chain((!is_known).then(|| entry.clone())).collect::<Vec<Entry>>()
        });
        match self.0.find(id) {
            // Another caller was first.
            Some(known) if !Arc::ptr_eq(&known.crew, &crew) => return known.crew,
            _ => {}
        }
        let canary = Canary { id, crew: Arc::downgrade(&crew), registry: Arc::downgrade(&self.0) };
        let canary = runtime.spawn(async move {
            let _canary = canary;
            pending::<()>().await;
        });
        // It was not set before: this is the one caller that made the crew.
        let _ = watch.set(canary.abort_handle());
        fence(Ordering::SeqCst);
        if rules.is_closed() {
            crew.close(&OffloadError::Closed);
        }
        crew
    }

    pub(crate) fn all(&self) -> Vec<Arc<Workers>> {
        self.0.crews.load().iter().map(|entry| Arc::clone(&entry.crew)).collect()
    }
}

impl Registry {
    fn find(&self, id: Id) -> Option<Entry> {
        self.crews.load().iter().find(|entry| entry.id == id).cloned()
    }
}

/// A task that does nothing but to be dropped, with all others, when its runtime shuts down. That comes before the runtime
/// waits for its blocking threads, so those that are idle need not be waited for.
struct Canary {
    id: Id,
    crew: Weak<Workers>,
    registry: Weak<Registry>,
}

impl Drop for Canary {
    fn drop(&mut self) {
        let Some(crew) = self.crew.upgrade() else { return };
        crew.close(&OffloadError::RuntimeShutdown);
        // If it still runs tasks, it is told of until it is drained and another runtime comes.
        if let Some(registry) = self.registry.upgrade().filter(|_| crew.is_drained()) {
            let others = |crews: &Arc<Vec<Entry>>| crews.iter().filter(|crew| crew.id != self.id).cloned().collect();
            registry.crews.rcu(|crews| -> Vec<Entry> { others(crews) });
        }
    }
}

/// The blocking threads of a tokio runtime.
struct OfRuntime {
    runtime: Handle,
    watch: Arc<OnceLock<AbortHandle>>,
}

impl Threads for OfRuntime {
    fn begin(&self, worker: Worker) -> Result<(), Worker> {
        let seat = Arc::new(Mutex::new(Some(worker)));
        let taken = Arc::clone(&seat);
        let work = move || {
            // Out of the lock first.
            let worker = lock(&taken).take();
            if let Some(worker) = worker {
                worker.work();
            }
        };
        // It panics where it has no thread at all and can't start one, and keeps the closure all the same.
        match catch(|| self.runtime.spawn_blocking(work)) {
            Ok(_) => Ok(()),
            Err(_) => lock(&seat).take().map_or(Ok(()), Err),
        }
    }
}

impl Drop for OfRuntime {
    /// The crew is gone, and with it who would have to know.
    fn drop(&mut self) {
        if let Some(canary) = self.watch.get() {
            canary.abort();
        }
    }
}
