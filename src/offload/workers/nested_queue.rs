//! [`NestedQueue`], nested tasks that run beside the thread on which their callers wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::thread;

use super::workers::Workers;
use crate::offload::job::{SharedJob, ThreadTasks};
use crate::panic::discard;
use crate::sync::{Condvar, Mutex, lock, wait};

thread_local! {
    /// The tasks whose callers wait on this thread. `None` until there is one.
    static CURRENT: RefCell<Option<Arc<NestedQueue>>> = const { RefCell::new(None) };
}

/// Nested tasks of one thread, which drives a runtime and must not run them itself.
///
/// They have no token: they use the token of the task on that thread. So they run one after the other, each on a thread
/// of its own, and that task [waits](Self::wait) for them when it ends.
#[derive(Default)]
pub(crate) struct NestedQueue {
    state: Mutex<NestedQueueState>,
    idle: Condvar,
}

#[derive(Default)]
struct NestedQueueState {
    tasks: VecDeque<NestedTask>,
    /// A thread runs a task, and starts the next one.
    is_running: bool,
}

struct NestedTask {
    workers: Arc<Workers>,
    job: SharedJob,
    /// The tasks around it.
    outer: ThreadTasks,
}

impl NestedQueue {
    /// Runs an [admitted](Workers::admit_nested) task for the current thread, once the earlier tasks of this thread have ended.
    pub(crate) fn run(workers: &Arc<Workers>, job: &SharedJob) {
        let task = NestedTask { workers: Arc::clone(workers), job: Arc::clone(job), outer: ThreadTasks::current() };
        let current = CURRENT.try_with(|current| Arc::clone(current.borrow_mut().get_or_insert_default()));
        // A thread that is ending has no queue, and its tasks no order.
        let queue = current.unwrap_or_default();
        let mut state = lock(&queue.state);
        state.tasks.push_back(task);
        if !mem::replace(&mut state.is_running, true) {
            drop(state);
            queue.start_next();
        }
    }

    /// Waits until the nested tasks of the current thread have ended.
    pub(super) fn wait() {
        let Some(queue) = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten() else { return };
        let mut state = lock(&queue.state);
        while state.is_running {
            state = wait(&queue.idle, state);
        }
    }

    fn start_next(self: &Arc<Self>) {
        while let Some(NestedTask { workers, job, outer }) = self.next() {
            let (queue, stack_size) = (Arc::clone(self), workers.config.stack_size);
            let (nested_workers, nested_job) = (Arc::clone(&workers), Arc::clone(&job));
            let run = move || {
                outer.enter(|| {
                    nested_workers.run_nested(&nested_job);
                    discard(nested_job);
                    Self::wait();
                });
                queue.start_next();
            };
            let thread = thread::Builder::new().name("onelane-nested".to_owned()).stack_size(stack_size);
            let spawned = thread.spawn(run);
            if spawned.is_err() {
                // Most tasks don't block on async code again, and need no thread of their own.
                workers.run_nested(&job);
            }
            discard(job);
            if spawned.is_ok() {
                return;
            }
        }
    }

    fn next(&self) -> Option<NestedTask> {
        let mut state = lock(&self.state);
        let task = state.tasks.pop_front();
        if task.is_none() {
            state.is_running = false;
            self.idle.notify_all();
        }
        task
    }
}
