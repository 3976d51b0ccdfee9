//! [`run_inline`], which runs a task that is submitted by a task of the same pool.

use std::sync::Arc;
use std::thread;

use tokio::runtime::Handle;

use crate::offload::job::SharedJob;
use crate::offload::workers::WorkersConfig;
use crate::park::runs_async_tasks;

/// Runs a task while its caller waits.
///
/// Inside `Handle::block_on`, tokio treats this thread as one that runs async tasks, and would not let the task block.
/// In that case the task gets a thread of its own, and this thread waits for the task.
pub(super) fn run_inline(job: &SharedJob, config: &Arc<WorkersConfig>) {
    if !runs_async_tasks() {
        return run_and_publish(job, config);
    }
    let (nested, nested_config, runtime) = (Arc::clone(job), Arc::clone(config), Handle::try_current().ok());
    let run = move || {
        let _entered = runtime.as_ref().map(Handle::enter);
        run_and_publish(&nested, &nested_config);
    };
    match thread::Builder::new().name("onelane-nested".to_owned()).spawn(run) {
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
