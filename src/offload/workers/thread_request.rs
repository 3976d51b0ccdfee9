//! [`StartingSlot`], where a worker waits for a thread of tokio, and [`ThreadRequest`], what runs it there.
//!
//! tokio may accept a closure and start no thread for it: the closure then waits until a busy thread is free, even if
//! further threads can be had by then. So several closures may request a thread for one worker. The first one that runs
//! takes the worker, and the others find its slot empty. None of them takes a later worker, which would overtake the
//! other closures in tokio's queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::worker::Worker;
use crate::sync::{Mutex, lock};

/// The second request may follow the first at once: there may be no later occasion. These are the age that the second
/// one must have before the third, and the most that the ages grow to: each of them doubles. Requests that a busy
/// runtime has not served stay in its queue.
const MIN_AGE: Duration = Duration::from_millis(1);
const MAX_AGE: Duration = Duration::from_millis(128);

/// Where one worker waits for its thread. Empty once the worker has one.
pub(super) struct StartingSlot(Mutex<Option<StartingWorker>>);

struct StartingWorker {
    worker: Worker,
    requested_at: Instant,
    request_again_after: Duration,
}

/// A request for a thread. If it is dropped, the runtime was shut down, and so is the worker.
pub(super) struct ThreadRequest(Option<Arc<StartingSlot>>);

impl StartingSlot {
    /// Creates a slot for a worker for which a thread is about to be requested.
    pub(super) fn new(worker: Worker) -> Self {
        let starting = StartingWorker { worker, requested_at: Instant::now(), request_again_after: Duration::ZERO };
        Self(Mutex::new(Some(starting)))
    }

    pub(super) fn take(&self) -> Option<Worker> {
        // The guard is dropped first: the worker does not run with the mutex held.
        let starting = lock(&self.0).take();
        starting.map(|starting| starting.worker)
    }

    /// Returns `true` if a thread must be requested again for the worker.
    pub(super) fn is_request_due(&self) -> bool {
        let mut slot = lock(&self.0);
        let Some(starting) = &mut *slot else { return false };
        let now = Instant::now();
        if now.saturating_duration_since(starting.requested_at) < starting.request_again_after {
            return false;
        }
        starting.requested_at = now;
        starting.request_again_after = (starting.request_again_after * 2).clamp(MIN_AGE, MAX_AGE);
        true
    }
}

impl ThreadRequest {
    pub(super) fn new(slot: &Arc<StartingSlot>) -> Self {
        Self(Some(Arc::clone(slot)))
    }

    /// Runs the worker on the current thread, unless another request was served first.
    pub(super) fn run(mut self) {
        if let Some(worker) = self.0.take().and_then(|slot| slot.take()) {
            worker.run();
        }
    }
}

impl Drop for ThreadRequest {
    fn drop(&mut self) {
        drop(self.0.take().and_then(|slot| slot.take()));
    }
}
