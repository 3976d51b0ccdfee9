//! [`run`], a task that is called for by a task of the same pool.

use std::sync::Arc;
use std::thread;

use tokio::runtime::Handle;

use super::job::Work;
use crate::park::runs_async_tasks;

/// Runs a task on the spot, while its caller waits.
///
/// Inside of `Handle::block_on` tokio takes the thread for one that runs async tasks, and would not let the task block. So
/// there it has a thread of its own, which this one waits for.
pub(super) fn run(job: &Arc<dyn Work>) {
    if !runs_async_tasks() {
        return end(job);
    }
    let (there, runtime) = (Arc::clone(job), Handle::try_current().ok());
    let run = move || {
        let _entered = runtime.as_ref().map(Handle::enter);
        end(&there);
    };
    match thread::Builder::new().name("onelane-nested".to_owned()).spawn(run) {
        // It does not panic: what the task panics with is its result.
        Ok(thread) => drop(thread.join()),
        // Most tasks can do without.
        Err(_) => end(job),
    }
}

fn end(job: &Arc<dyn Work>) {
    Arc::clone(job).run();
    // Nobody waits for it yet.
    drop(job.publish());
}
