//! [`ChildTasks`], the tasks that a service has spawned. They end with its run.

use std::future::Future;
use std::mem;
use std::sync::Mutex;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::task::TaskTracker;

use crate::sync::lock;

/// The child tasks of one generation.
#[derive(Debug, Default)]
pub(crate) struct ChildTasks {
    tracker: TaskTracker,
    aborts: Mutex<AbortHandles>,
}

#[derive(Debug, Default)]
struct AbortHandles {
    handles: Vec<AbortHandle>,
    /// The length at which the handles of finished tasks are removed: about twice as many as were left the last time.
    prune_at: usize,
    /// A task was spawned before the list was closed.
    is_used: bool,
    /// A task that is spawned from now on is aborted immediately.
    is_closed: bool,
}

impl ChildTasks {
    pub(super) fn spawn<F>(&self, future: F, on: &Handle) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (is_closed, _spawning) = {
            // Recorded before the task exists, so that `close_if_unused` cannot overlook it. Until the task is in the
            // list, the token counts as a task that `ended` waits for.
            let mut aborts = lock(&self.aborts);
            aborts.is_used |= !aborts.is_closed;
            (aborts.is_closed, self.tracker.token())
        };
        if is_closed {
            // Not tracked: a child that blocks its thread must not hold up a generation that has ended.
            let child = on.spawn(future);
            child.abort();
            return child;
        }
        let child = self.tracker.spawn_on(future, on);
        let mut aborts = lock(&self.aborts);
        if aborts.is_closed {
            drop(aborts);
            child.abort();
        } else {
            aborts.push(child.abort_handle());
        }
        child
    }

    /// Returns `true` if no task was ever spawned. In that case the call also closes the list, so that no task ever
    /// runs.
    pub(crate) fn close_if_unused(&self) -> bool {
        let mut aborts = lock(&self.aborts);
        aborts.is_closed |= !aborts.is_used;
        aborts.is_closed
    }

    /// Waits until no task is left.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Aborts all tasks, including those that are spawned later.
    pub(crate) fn abort_all(&self) {
        let handles = {
            let mut aborts = lock(&self.aborts);
            aborts.is_closed = true;
            mem::take(&mut aborts.handles)
        };
        for handle in handles {
            handle.abort();
        }
    }
}

impl AbortHandles {
    fn push(&mut self, handle: AbortHandle) {
        if self.handles.len() >= self.prune_at {
            self.handles.retain(|handle| !handle.is_finished());
            self.prune_at = 2 * self.handles.len() + 16;
        }
        self.handles.push(handle);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio_test::{assert_ready, task};

    use super::*;

    #[test]
    fn child_that_is_spawned_after_the_end_holds_up_nothing() {
        // A runtime that nothing drives does not even drop the child.
        let runtime = Builder::new_current_thread().build().expect("the runtime starts");
        let children = ChildTasks::default();
        runtime.block_on(async { children.spawn(async {}, runtime.handle()).await }).expect("the first child ends");
        children.abort_all();
        let late = children.spawn(async {}, runtime.handle());
        assert_ready!(task::spawn(children.ended()).poll());
        assert!(runtime.block_on(late).expect_err("the child is aborted").is_cancelled());
    }
}
