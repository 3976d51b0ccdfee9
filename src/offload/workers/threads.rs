//! [`WorkerThreads`], where the threads of workers come from.

use std::io;

use super::worker::Worker;

/// A worker for which no thread could be started.
#[derive(Debug)]
pub(crate) struct SpawnError {
    pub(crate) worker: Worker,
    /// Why there is no thread.
    pub(crate) cause: io::Error,
}

/// A source of threads, such as the blocking threads of a tokio runtime.
pub(crate) trait WorkerThreads: Send + Sync {
    /// Runs a worker on a thread. Drops the worker if there will never be a thread again.
    ///
    /// # Errors
    ///
    /// Returns the worker if no thread is available at the moment.
    fn spawn(&self, worker: Worker) -> Result<(), SpawnError>;

    /// Returns `true` if the current thread belongs to this source.
    fn contains_current_thread(&self) -> bool {
        false
    }
}
