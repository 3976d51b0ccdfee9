//! [`TaskQueue`], the background tasks of a server.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex};

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
    /// Responses whose tasks wait until those of others have ended.
    waiting: VecDeque<VecDeque<QueuedTask>>,
}

/// A task whose response has ended. The process knows it as work without a caller.
pub(super) struct QueuedTask {
    pub(super) task: BackgroundTask,
    pub(super) entry: DetachedEntry,
}

/// The tasks of one response, which must be started. The process knows them as work without a caller.
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

    /// Counts one more task. Returns the maximum if the task is refused.
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
        trace::dropped(&dropped.task.name);
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

    /// Returns the next tasks for a runner that has run those of another response, or ends the runner.
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

    /// Starts the tasks, now or when those of other responses have ended.
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
