//! [`Workers`]: tasks whose callers are tasks that hold a token of the same limiter.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::queue::QueuePosition;
use super::state::WorkersState;
use super::workers::Workers;
use crate::offload::error::OffloadError;
use crate::offload::job::{Priority, SharedJob};
use crate::panic::discard;
use crate::sync::atomic::Ordering;
use crate::sync::lock;
use crate::wake::wake;

/// Tasks whose callers, among them those of nested tasks, poll again. The caller of a nested task occupies a thread
/// that may be the only one, or holds the token that its task would wait for. It runs its task itself.
#[must_use]
pub(super) struct NestedCallers(Vec<SharedJob>);

impl NestedCallers {
    /// Wakes the callers. Must be called without the mutex held.
    pub(super) fn wake(self) {
        for job in self.0 {
            wake(job.take_waker());
            discard(job);
        }
    }
}

impl Workers {
    /// Queues a task if a token is free for it.
    pub(crate) fn submit_if_free(
        self: &Arc<Self>,
        priority: Priority,
        job: &SharedJob,
    ) -> Result<Option<QueuePosition>, OffloadError> {
        let mut state = lock(&self.state);
        self.check_open(&state)?;
        if !self.try_promise(&state) {
            return Ok(None);
        }
        state.promised += 1;
        Ok(Some(self.enqueue(state, priority, Arc::clone(job))))
    }

    /// Returns `true` if a worker is about to take a task, and there is a token for it. The caller of a nested task
    /// then waits, and its waker is called if no worker takes the task.
    pub(crate) fn is_about_to_take_task(&self) -> bool {
        let mut state = lock(&self.state);
        let is_expected = self.is_worker_expected(&state);
        state.has_nested_callers |= is_expected;
        is_expected
    }

    fn is_worker_expected(&self, state: &WorkersState) -> bool {
        (state.searcher.is_some() || state.is_starting) && (state.is_granted || self.tokens().available() > 0)
    }

    /// Takes the tasks whose callers may have counted on a worker, if none is expected any more.
    pub(super) fn take_nested_callers(&self, state: &mut WorkersState) -> Option<NestedCallers> {
        if !state.has_nested_callers || self.is_worker_expected(state) {
            return None;
        }
        state.has_nested_callers = false;
        Some(NestedCallers(state.queue.iter().cloned().collect()))
    }

    /// Admits a task that [runs](Self::run_nested) without a token.
    pub(crate) fn admit_nested(&self) -> Result<(), OffloadError> {
        let state = lock(&self.state);
        self.check_open(&state)?;
        self.unpublished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Runs an [admitted](Self::admit_nested) task on the current thread, as on a thread of the workers, which may be
    /// inside of a runtime.
    pub(crate) fn run_nested(&self, job: &SharedJob) {
        let _entered = self.threads.runtime().map(Handle::enter);
        Arc::clone(job).run(&self.config.pool);
        let waker = job.publish();
        lock(&self.state).count_started(Some(job));
        self.on_result_published();
        wake(waker);
    }
}
