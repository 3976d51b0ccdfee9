//! [`start_nested`], which starts a task that is submitted by a task of the same limiter.

use std::sync::Arc;
use std::thread;

use crate::offload::error::OffloadError;
use crate::offload::job::{Nesting, Priority, SharedJob, ThreadTasks};
use crate::offload::workers::{QueuePosition, Workers};
use crate::panic::discard;
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
    run_inline(workers, job);
    workers.on_inline_end(job);
    Ok(())
}

/// Runs a task while its caller waits.
///
/// Inside `block_on` of a runtime, tokio treats this thread as one that runs async tasks, and would not let the task
/// block. Where tokio can lift that, the task runs here, with the stack that the runtime gives its threads. Where tokio
/// can't, the task gets a thread of its own, and this thread waits for the task. (If it did not wait, the number of
/// such tasks that run at the same time would have no bound, since none of them has a token.)
fn run_inline(workers: &Arc<Workers>, job: &SharedJob) {
    if !runs_async_tasks() {
        return run_and_publish(workers, job);
    }
    if block_in_place(|| run_and_publish(workers, job)) {
        return;
    }
    let (nested_workers, nested, outer) = (Arc::clone(workers), Arc::clone(job), ThreadTasks::current());
    let run = move || outer.enter(|| run_and_publish(&nested_workers, &nested));
    let thread = thread::Builder::new().name("onelane-nested".to_owned()).stack_size(workers.config.stack_size);
    match thread.spawn(run) {
        // The thread does not panic: a panic in the task becomes the task's result.
        Ok(thread) => drop(thread.join()),
        // Most tasks don't block on async code again, and need no thread of their own.
        Err(_) => run_and_publish(workers, job),
    }
}

fn run_and_publish(workers: &Workers, job: &SharedJob) {
    workers.enter_runtime(|| {
        Arc::clone(job).run(&workers.config.pool);
        // The caller that waits here polls the job next. A waker that it has registered need not be called, and its
        // destructor is user code.
        discard(job.publish());
    });
}
