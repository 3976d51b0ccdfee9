//! [`TaskQueue`], the background tasks of a server.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::config::{BackgroundTasksConfig, WhenFull};
use super::runner::run_lists;
use super::task::BackgroundTask;
use super::trace;
use crate::debug::impl_debug;
use crate::detached::DetachedEntry;
use crate::panic::discard;
use crate::sync::lock;

/// The background tasks of one server.
pub(crate) struct TaskQueue {
    pub(crate) config: BackgroundTasksConfig,
    runtime: Handle,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    /// Tasks that were added and have not begun.
    queued: usize,
    /// Responses whose tasks run.
    running: usize,
    /// The tasks of responses that wait until the tasks of other responses have ended.
    waiting: VecDeque<VecDeque<QueuedTask>>,
}

/// A task whose response has ended. It is registered as work that continues without its caller.
pub(super) struct QueuedTask {
    pub(super) task: BackgroundTask,
    pub(super) entry: DetachedEntry,
}

/// The tasks of one response, which must be started. They are registered as work that continues without its caller.
#[must_use = "the tasks are lost"]
pub(crate) struct TaskList {
    queue: Arc<TaskQueue>,
    tasks: VecDeque<QueuedTask>,
}

impl TaskQueue {
    /// Creates a queue whose tasks run on this runtime.
    pub(crate) fn new(config: BackgroundTasksConfig, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { config, runtime, state: Mutex::default() })
    }

    /// Counts another task. Returns the maximum if the task is refused.
    pub(super) fn admit(&self, task: &BackgroundTask) -> Result<(), usize> {
        let max_queued = self.config.max_queued;
        let mut state = lock(&self.state);
        if state.queued < max_queued {
            state.queued += 1;
            return Ok(());
        }
        let dropped = if self.config.when_full == WhenFull::DropOldest { state.take_oldest() } else { None };
        drop(state);
        let Some(dropped) = dropped else {
            trace::refused(&task.name);
            return Err(max_queued);
        };
        let QueuedTask { task: dropped, mut entry } = dropped;
        trace::dropped(&dropped.name);
        // The event has reported the task. Unless its entry is finished, the task counts as cut off, and its name is
        // kept forever.
        entry.finish();
        drop(entry);
        // The new task takes the place of the dropped one.
        discard(dropped);
        Ok(())
    }

    /// Drops tasks that do not run after the response that they belong to.
    pub(super) fn withdraw(&self, tasks: Vec<BackgroundTask>) {
        lock(&self.state).queued -= tasks.len();
        tasks.into_iter().for_each(discard);
    }

    /// Counts a task that begins.
    pub(super) fn begin(&self) {
        lock(&self.state).queued -= 1;
    }

    /// Returns the next tasks for a runner that has run the tasks of a response, or ends the runner.
    pub(super) fn next(&self) -> Option<VecDeque<QueuedTask>> {
        let mut state = lock(&self.state);
        let next = state.waiting.pop_front();
        state.running -= usize::from(next.is_none());
        next
    }

    /// Counts tasks that are dropped because their runtime has ended, and ends their runner.
    pub(super) fn lose(&self, tasks: usize) {
        let mut state = lock(&self.state);
        state.queued -= tasks;
        state.running -= 1;
    }
}

impl Drop for TaskQueue {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The destructors are user code.
        state.waiting.drain(..).flatten().for_each(discard);
    }
}

impl QueueState {
    /// Removes the task that has waited longest.
    fn take_oldest(&mut self) -> Option<QueuedTask> {
        let oldest = self.waiting.front_mut()?;
        let task = oldest.pop_front();
        if oldest.is_empty() {
            self.waiting.pop_front();
        }
        task
    }
}

impl TaskList {
    pub(super) fn new(queue: &Arc<TaskQueue>, tasks: Vec<BackgroundTask>) -> Self {
        let entry = |task: BackgroundTask| {
            let entry = DetachedEntry::outliving_server(&*task.name);
            QueuedTask { task, entry }
        };
        Self { queue: Arc::clone(queue), tasks: tasks.into_iter().map(entry).collect() }
    }

    /// Starts the tasks, now or when the tasks of other responses have ended.
    pub(crate) fn start(mut self) {
        let tasks = mem::take(&mut self.tasks);
        let mut state = lock(&self.queue.state);
        if state.running >= self.queue.config.max_running {
            state.waiting.push_back(tasks);
            return;
        }
        state.running += 1;
        drop(state);
        self.queue.runtime.spawn(run_lists(Arc::clone(&self.queue), tasks));
    }
}

impl Drop for TaskList {
    /// The connection that should have started the tasks was dropped.
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            let tasks = mem::take(&mut self.tasks);
            Self { queue: Arc::clone(&self.queue), tasks }.start();
        }
    }
}

impl_debug!(TaskQueue |this| { config: this.config, queued: lock(&this.state).queued, .. });

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::detached;

    #[tokio::test]
    async fn process_does_not_keep_the_name_of_a_task_that_gave_way_to_a_newer_one() {
        let config = BackgroundTasksConfig::new().max_running(1).max_queued(1).when_full(WhenFull::DropOldest);
        let queue = TaskQueue::new(config, Handle::current());
        let add = |name| {
            let task = BackgroundTask::new(name, pending::<()>());
            queue.admit(&task).expect("an older task gives way");
            TaskList::new(&queue, vec![task]).start();
        };
        add("runs");
        tokio::task::yield_now().await;
        add("gives way to a newer one");
        add("waits");
        assert!(!detached::cut_counts().contains_key("gives way to a newer one"));
    }
}
