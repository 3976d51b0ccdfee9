//! [`KillSwitch`], with which a caller that leaves kills the worker of its task.

use std::sync::Arc;

use super::group::ProcessGroup;
use crate::sync::{Mutex, lock};

/// Kills the worker of a task. Shared by the caller of the task and the thread that waits for the worker.
#[derive(Debug, Default)]
pub(in crate::offload::process) struct KillSwitch(Mutex<KillState>);

#[derive(Debug, Default)]
enum KillState {
    #[default]
    Idle,
    /// The group of the worker that runs the task. The worker is not collected until the switch is disarmed.
    Armed(Arc<ProcessGroup>),
    /// The caller has left.
    Fired,
}

impl KillSwitch {
    /// Kills the worker that runs the task, if there is one, and prevents other workers from running it.
    pub(in crate::offload::process) fn fire(&self) {
        let mut state = lock(&self.0);
        if let KillState::Armed(group) = &*state {
            group.kill();
        }
        *state = KillState::Fired;
    }

    /// Allows the caller to kill this worker. Returns `false` if the caller has already left.
    pub(super) fn arm(&self, worker: &Arc<ProcessGroup>) -> bool {
        let mut state = lock(&self.0);
        let is_wanted = !matches!(*state, KillState::Fired);
        if is_wanted {
            *state = KillState::Armed(Arc::clone(worker));
        }
        is_wanted
    }

    /// Returns `true` if the caller has left.
    pub(super) fn is_fired(&self) -> bool {
        matches!(*lock(&self.0), KillState::Fired)
    }

    /// Protects the worker, which may be collected or run other tasks from now on. Returns `true` if the caller has
    /// left.
    pub(super) fn disarm(&self) -> bool {
        let mut state = lock(&self.0);
        let is_fired = matches!(*state, KillState::Fired);
        if !is_fired {
            *state = KillState::Idle;
        }
        is_fired
    }
}
