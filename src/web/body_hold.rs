//! [`BodyHold`], a permit that a response body keeps, up to a limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::guard::{OwnedPermit, Scope, SharedGuard};
use crate::sync::{Mutex, lock};

/// A permit that is given back when the body has ended, when this is dropped, or after `limit`.
///
/// The limit needs a task of its own: a body whose client has stopped reading is not polled.
#[derive(Debug)]
pub(crate) struct BodyHold {
    guard: SharedGuard,
    permit: Arc<Mutex<Option<OwnedPermit>>>,
    timer: Option<AbortHandle>,
}

impl BodyHold {
    pub(crate) fn new(permit: OwnedPermit, limit: Duration) -> Self {
        let guard = permit.guard().clone();
        let permit = Arc::new(Mutex::new(Some(permit)));
        let timer = Handle::try_current().ok().map(|runtime| {
            let permit = Arc::clone(&permit);
            let task = async move {
                sleep(limit).await;
                let overrun = lock(&permit).take();
                if let Some(overrun) = overrun {
                    overrun.guard().count_overrun();
                }
            };
            runtime.spawn(task).abort_handle()
        });
        Self { guard, permit, timer }
    }

    /// Polls a part of the body: inside the guard, as long as the permit is held.
    pub(crate) fn poll_inside<T>(&self, poll: impl FnOnce() -> T) -> T {
        let is_held = lock(&self.permit).is_some();
        let _scope = is_held.then(|| Scope::enter(&self.guard));
        poll()
    }

    pub(crate) fn release(&mut self) {
        let permit = lock(&self.permit).take();
        drop(permit);
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

impl Drop for BodyHold {
    fn drop(&mut self) {
        self.release();
    }
}
