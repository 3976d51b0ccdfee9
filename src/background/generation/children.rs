//! [`Children`], the tasks that a service has spawned. They end with its run.

use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::task::TaskTracker;

use crate::sync::lock;

/// The tasks of one generation.
#[derive(Debug, Default)]
pub(super) struct Children(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    Some(Arc<Brood>),
    /// The run is over: who is spawned now is aborted at once.
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Brood {
    tracker: TaskTracker,
    aborts: Mutex<Aborts>,
}

#[derive(Debug, Default)]
struct Aborts {
    handles: Vec<AbortHandle>,
    /// How many there may be before those of finished tasks are looked for: twice as many as were left the last time.
    limit: usize,
    is_closed: bool,
}

impl Children {
    pub(super) fn spawn<F>(&self, future: F, on: &Handle) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let brood = {
            let mut state = lock(&self.0);
            if matches!(*state, State::None) {
                *state = State::Some(Arc::default());
            }
            match &*state {
                State::Some(brood) => Some(Arc::clone(brood)),
                State::None | State::Over => None,
            }
        };
        if let Some(brood) = brood {
            return brood.spawn(future, on);
        }
        let child = on.spawn(future);
        child.abort();
        child
    }

    /// Those there are, if any were spawned. If not, there will be none.
    pub(super) fn last_call(&self) -> Option<Arc<Brood>> {
        let mut state = lock(&self.0);
        if let State::Some(brood) = &*state {
            return Some(Arc::clone(brood));
        }
        *state = State::Over;
        None
    }

    pub(super) fn over(&self) {
        *lock(&self.0) = State::Over;
    }
}

impl Brood {
    fn spawn<F>(&self, future: F, on: &Handle) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let child = self.tracker.spawn_on(future, on);
        let mut aborts = lock(&self.aborts);
        if aborts.is_closed {
            child.abort();
        } else {
            if aborts.handles.len() >= aborts.limit {
                aborts.handles.retain(|handle| !handle.is_finished());
                aborts.limit = 2 * aborts.handles.len() + 16;
            }
            aborts.handles.push(child.abort_handle());
        }
        child
    }

    /// Waits until there is none left.
    pub(super) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    pub(super) fn abort_all(&self) {
        let handles = {
            let mut aborts = lock(&self.aborts);
            aborts.is_closed = true;
            std::mem::take(&mut aborts.handles)
        };
        for handle in handles {
            handle.abort();
        }
    }
}
