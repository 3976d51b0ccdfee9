//! [`start_nested`], which starts a task that is submitted by a task of the same limiter.

use std::sync::Arc;

use crate::offload::error::OffloadError;
use crate::offload::job::{Nesting, Priority, SharedJob};
use crate::offload::workers::{NestedQueue, QueuePosition, Workers};
use crate::park::{block_in_place, runs_async_tasks};

/// Runs a task whose caller may be a task that holds a token, and may block on the new one.
///
/// The new task never waits for a token. In another runtime than its caller's, it is queued if a token is free, and its
/// position is returned. Otherwise it [runs with the token of its caller](run_nested).
pub(super) fn start_nested(
    workers: &Arc<Workers>,
    priority: Priority,
    job: &SharedJob,
    nesting: Nesting,
) -> Result<Option<QueuePosition>, OffloadError> {
    if nesting == Nesting::OtherRuntime
        && let Some(position) = workers.submit_if_free(priority, job)?
    {
        return Ok(Some(position));
    }
    run_nested(workers, job).map(|()| None)
}

/// Runs a task with the token of the task that waits for it on this thread.
///
/// Inside `block_on` of a runtime, tokio treats this thread as one that runs async tasks, and would not let the task
/// block. Where tokio can lift that, the task runs here, with the stack that the runtime gives its threads. Where tokio
/// can't, this thread drives a runtime or a `LocalSet` that the task may wait for. So the task runs on another thread,
/// and may still be queued or running when this function returns.
pub(super) fn run_nested(workers: &Arc<Workers>, job: &SharedJob) -> Result<(), OffloadError> {
    workers.admit_nested()?;
    if !runs_async_tasks() {
        workers.run_nested(job);
    } else if !block_in_place(|| workers.run_nested(job)) {
        NestedQueue::run(workers, job);
    }
    Ok(())
}
