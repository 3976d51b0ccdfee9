//! [`start_nested`], which starts a task that is submitted by a task of the same limiter.

use std::sync::Arc;
use std::thread;

use tokio::runtime::Handle;

use crate::offload::error::OffloadError;
use crate::offload::job::{Nesting, Priority, SharedJob};
use crate::offload::workers::{QueuePosition, Workers, WorkersConfig};
use crate::park::{block_in_place, runs_async_tasks};

/// Runs a task whose caller may be a task that holds a token, and may block on the new one.
///
/// The new task never waits for a token. In another runtime than its caller's, it is queued if a token is free, and its
/// position is returned. Otherwise it runs here, while its caller waits.
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

/// Runs a task on this thread, with the token of the task that waits for it here.
pub(super) fn run_nested(workers: &Arc<Workers>, job: &SharedJob) -> Result<(), OffloadError> {
    workers.admit_inline()?;
    run_inline(job, &workers.config);
    workers.on_inline_end(job);
    Ok(())
}

/// Runs a task while its caller waits.
///
/// Inside `block_on` of a runtime, tokio treats this thread as one that runs async tasks, and would not let the task
/// block. Where tokio can lift that, the task runs here, with the stack that the runtime gives its threads. Where tokio
/// can't, the task gets a thread of its own, and this thread waits for the task.
fn run_inline(job: &SharedJob, config: &Arc<WorkersConfig>) {
    if !runs_async_tasks() {
        return run_and_publish(job, config);
    }
    if block_in_place(|| run_and_publish(job, config)) {
        return;
    }
    let (nested, nested_config, runtime) = (Arc::clone(job), Arc::clone(config), Handle::try_current().ok());
    let run = move || {
        let _entered = runtime.as_ref().map(Handle::enter);
        run_and_publish(&nested, &nested_config);
    };
    let thread = thread::Builder::new().name("onelane-nested".to_owned()).stack_size(config.stack_size);
    match thread.spawn(run) {
        // The thread does not panic: a panic in the task becomes the task's result.
        Ok(thread) => drop(thread.join()),
        // Most tasks don't block on async code again, and need no thread of their own.
        Err(_) => run_and_publish(job, config),
    }
}

fn run_and_publish(job: &SharedJob, config: &WorkersConfig) {
    Arc::clone(job).run(&config.pool);
    // The caller has not polled yet, so there is no waker.
    drop(job.publish());
}
