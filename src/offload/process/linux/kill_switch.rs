//! [`KillSwitch`], with which a caller that leaves kills the worker that runs its task.

use std::sync::Arc;

use super::group::ProcessGroup;
use crate::sync::{Mutex, lock};

/// Shared by the caller of a task and the thread that waits for its worker.
#[derive(Debug, Default)]
pub(in crate::offload::process) struct KillSwitch(Mutex<KillState>);

#[derive(Debug, Default)]
enum KillState {
    #[default]
    Idle,
    /// The worker that runs the task, which is not collected until the switch is disarmed.
    Armed(Arc<ProcessGroup>),
    /// The caller wants no result.
    Fired,
}

impl KillSwitch {
    /// Kills the worker, if one runs the task, and keeps any other from running it.
    pub(in crate::offload::process) fn fire(&self) {
        let mut state = lock(&self.0);
        if let KillState::Armed(group) = &*state {
            group.kill();
        }
        *state = KillState::Fired;
    }

    /// Lets the caller kill this worker. Returns `false` if the caller has left already.
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

    /// Protects the worker, which may now be reaped or run other tasks. Returns `true` if the caller has left.
    pub(super) fn disarm(&self) -> bool {
        let mut state = lock(&self.0);
        let is_fired = matches!(*state, KillState::Fired);
        if !is_fired {
            *state = KillState::Idle;
        }
        is_fired
    }
}
