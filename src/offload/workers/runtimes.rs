//! [`Runtimes`], the workers of a pool that runs its tasks on tokio's blocking threads.
//!
//! Each runtime has its own workers: a thread of one runtime that ran the tasks of another would keep the first one
//! from shutting down for as long as the other has work.

use std::future::pending;
use std::io;
use std::sync::{Arc, OnceLock, Weak};

use tokio::runtime::{Handle, Id};
use tokio::task::AbortHandle;

use super::config::WorkersConfig;
use super::registry::Registry;
use super::thread_request::{StartingSlot, ThreadRequest};
use super::threads::{SpawnError, WorkerThreads};
use super::watch::watch;
use super::worker::Worker;
use super::workers::Workers;
use crate::offload::error::{OffloadError, OffloadErrorKind};
use crate::panic::catch;
use crate::sync::{Mutex, lock};

/// The workers of each runtime from which the pool is used.
#[derive(Debug, Default)]
pub(crate) struct Runtimes(Arc<Registry<Id>>);

impl Runtimes {
    /// Returns the workers of the current runtime, and its id.
    pub(crate) fn current_workers(&self, config: &Arc<WorkersConfig>) -> Result<(Arc<Workers>, Id), OffloadError> {
        let runtime = Handle::try_current().map_err(|_| OffloadErrorKind::NoRuntime)?;
        let id = runtime.id();
        let known = self.0.find(id);
        Ok((known.unwrap_or_else(|| self.register(config, &runtime)), id))
    }

    pub(crate) fn all_workers(&self) -> Vec<Arc<Workers>> {
        self.0.all()
    }

    #[cold]
    fn register(&self, config: &Arc<WorkersConfig>, runtime: &Handle) -> Arc<Workers> {
        let id = runtime.id();
        let shutdown = Arc::new(OnceLock::new());
        let starting = Mutex::default();
        let threads = RuntimeThreads { runtime: runtime.clone(), starting, shutdown: Arc::clone(&shutdown) };
        let workers = Workers::new(Arc::clone(config), Box::new(threads));
        if let Err(first) = self.0.register(id, &workers) {
            return first;
        }
        let on_drop = ShutdownWatch { id, workers: Arc::downgrade(&workers), registry: Arc::downgrade(&self.0) };
        let task = runtime.spawn(async move {
            let _on_drop = on_drop;
            pending::<()>().await;
        });
        // The handle was not set before: only the caller that registered the workers reaches this line.
        let _ = shutdown.set(task.abort_handle());
        workers
    }
}

/// A task holds this value, and only waits until the runtime drops it, with all other tasks, at its shutdown. The
/// runtime drops its tasks before it waits for its blocking threads, so idle workers don't delay the shutdown.
struct ShutdownWatch {
    id: Id,
    workers: Weak<Workers>,
    registry: Weak<Registry<Id>>,
}

impl Drop for ShutdownWatch {
    fn drop(&mut self) {
        let Some(workers) = self.workers.upgrade() else { return };
        workers.close(OffloadErrorKind::RuntimeShutdown);
        // Workers that still run tasks stay in the statistics until they are drained and another runtime is registered.
        if let Some(registry) = self.registry.upgrade().filter(|_| workers.is_drained()) {
            registry.remove(self.id);
        }
    }
}

/// The blocking threads of a tokio runtime.
struct RuntimeThreads {
    runtime: Handle,
    /// Where the last worker waited for its thread, or waits.
    starting: Mutex<Option<Arc<StartingSlot>>>,
    /// The task that holds the [`ShutdownWatch`].
    shutdown: Arc<OnceLock<AbortHandle>>,
}

impl RuntimeThreads {
    /// Requests a thread for the worker in the slot.
    fn request(&self, slot: &Arc<StartingSlot>) -> Result<(), SpawnError> {
        let request = ThreadRequest::new(slot);
        // tokio panics if it has no blocking thread at all and can't start one, but it still keeps the closure.
        match catch(|| self.runtime.spawn_blocking(|| request.run())) {
            Ok(_) => Ok(()),
            Err(panic) => match slot.take() {
                // The message of the panic is the error of the operating system.
                Some(worker) => Err(SpawnError { worker, cause: io::Error::other(panic.message()) }),
                None => Ok(()),
            },
        }
    }
}

impl WorkerThreads for RuntimeThreads {
    fn spawn(&self, worker: Worker) -> Result<(), SpawnError> {
        let slot = Arc::new(StartingSlot::new(worker));
        *lock(&self.starting) = Some(Arc::clone(&slot));
        self.request(&slot)
    }

    fn request_again(&self) -> Result<(), SpawnError> {
        let slot = lock(&self.starting).clone();
        slot.filter(|slot| slot.is_request_due()).map_or(Ok(()), |slot| self.request(&slot))
    }

    fn runtime(&self) -> Option<&Handle> {
        Some(&self.runtime)
    }

    fn watch(&self, workers: &Arc<Workers>) {
        watch(workers);
    }
}

impl Drop for RuntimeThreads {
    /// Ends the watch: the workers that it would close are gone.
    fn drop(&mut self) {
        if let Some(task) = self.shutdown.get() {
            task.abort();
        }
    }
}
