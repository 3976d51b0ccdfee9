//! [`WorkerThreads`], where the threads of workers come from.

use std::io;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::worker::Worker;
use super::workers::Workers;
#[cfg(feature = "cpu")]
use crate::sync::{Mutex, lock};

/// A worker for which no thread could be started.
#[derive(Debug)]
pub(crate) struct SpawnError {
    pub(crate) worker: Worker,
    /// Why there is no thread.
    pub(crate) cause: io::Error,
}

/// A source of threads, such as the blocking threads of a tokio runtime.
pub(crate) trait WorkerThreads: Send + Sync {
    /// Runs a worker on a thread, as soon as there is one. Drops the worker if there will never be a thread again. No
    /// other worker waits for its thread at that time.
    ///
    /// # Errors
    ///
    /// Returns the worker if no thread is available at the moment.
    fn spawn(&self, worker: Worker) -> Result<(), SpawnError>;

    /// Requests a thread once more for a worker that waits for one, if the last request may have been forgotten.
    ///
    /// # Errors
    ///
    /// Returns the worker if no thread is available at the moment.
    fn request_again(&self) -> Result<(), SpawnError> {
        Ok(())
    }

    /// Returns the runtime that the threads are inside of, if there is one.
    fn runtime(&self) -> Option<&Handle> {
        None
    }

    /// [Checks](Workers::check_start) the workers until nothing waits for a thread: the starting worker may never get
    /// one. A source whose threads always start does not check.
    fn watch(&self, _workers: &Arc<Workers>) {}
}

/// Passes a worker to `start`, which starts a thread with the closure that it receives. If `start` fails, it drops the
/// closure, and the worker is taken back.
#[cfg(feature = "cpu")]
pub(super) fn hand_over(
    worker: Worker,
    start: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>,
) -> Result<(), SpawnError> {
    let slot = Arc::new(Mutex::new(Some(worker)));
    let taken = Arc::clone(&slot);
    let run = move || {
        // A separate statement takes the worker, so that the worker does not run with the mutex held.
        let worker = lock(&taken).take();
        if let Some(worker) = worker {
            worker.run();
        }
    };
    let Err(cause) = start(Box::new(run)) else { return Ok(()) };
    let worker = lock(&slot).take();
    match worker {
        Some(worker) => Err(SpawnError { worker, cause }),
        None => Ok(()),
    }
}
