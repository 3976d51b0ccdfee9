//! [`BodyHold`], a permit that a response body holds, up to a limit.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::guard::erased::ErasedSource;
use crate::guard::permit::HeldPermit;
use crate::scope::Scope;
use crate::sync::{Mutex, lock};

/// A permit that is released when the body has ended, when this value is dropped, or after the limit, if there is one.
///
/// The limit needs its own task, because a body whose client has stopped reading is not polled.
#[derive(Debug)]
pub(crate) struct BodyHold {
    permit: Arc<Mutex<Option<HeldPermit<ErasedSource>>>>,
    timer: Option<AbortHandle>,
}

impl BodyHold {
    pub(crate) fn new(permit: HeldPermit<ErasedSource>, limit: Option<Duration>) -> Self {
        let permit = Arc::new(Mutex::new(Some(permit)));
        let timer = limit.zip(Handle::try_current().ok()).map(|(limit, runtime)| {
            let permit = Arc::clone(&permit);
            let release_at_limit = async move {
                sleep(limit).await;
                let overrun = lock(&permit).take();
                if let Some(overrun) = overrun {
                    overrun.count_overrun();
                }
            };
            runtime.spawn(release_at_limit).abort_handle()
        });
        Self { permit, timer }
    }

    /// Polls the body, inside the guard's scope while the permit is still held.
    pub(crate) fn poll_inside<T>(&self, poll: impl FnOnce() -> T) -> T {
        let held = lock(&self.permit).as_mut().map(|permit| (permit.scope(), mem::take(permit.hold_mut())));
        let Some((scope, mut hold)) = held else { return poll() };
        let scope = Scope::enter(scope, &mut hold);
        let result = poll();
        drop(scope);
        // The timer may have released the permit during the poll. In that case, the hold is dropped here.
        if let Some(permit) = &mut *lock(&self.permit) {
            *permit.hold_mut() = hold;
        }
        result
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
