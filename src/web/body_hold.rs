//! [`BodyHold`], a permit that a response body holds, up to a limit.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::guard::erased::ErasedSource;
use crate::guard::lease_loss::LeaseLoss;
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
    /// `None` if the loss of a lease does not end the body.
    lost: Option<LeaseLoss>,
}

/// The error of a response body that ends because its lease is lost.
#[derive(Debug, Error)]
#[error("the lease of the guard was lost while the response was written")]
pub(crate) struct BodyLeaseLost;

impl BodyHold {
    pub(crate) fn new(permit: HeldPermit<ErasedSource>, limit: Option<Duration>) -> Self {
        let lost = LeaseLoss::of(&permit);
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
        Self { permit, timer, lost }
    }

    /// Polls the body, inside the guard's scope while the permit is still held. Returns an error if the lease is lost.
    pub(crate) fn poll_inside<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, BodyLeaseLost>> {
        let enter =
            |permit: &mut HeldPermit<_>| (permit.scope(), mem::take(permit.hold_mut()), permit.lease().cloned());
        let held = lock(&self.permit).as_mut().map(enter);
        let Some((scope, mut hold, lease)) = held else { return poll(cx).map(Ok) };
        if let Some(lost) = &mut self.lost
            && lost.poll(cx).is_ready()
            // The timer also ends the lease when it releases the permit, which is no loss.
            && lock(&self.permit).is_some()
        {
            drop(hold);
            self.release();
            return Poll::Ready(Err(BodyLeaseLost));
        }
        let current = lease.as_ref().and_then(|lease| lease.enter());
        let scope = Scope::enter(scope, &mut hold);
        let result = poll(cx);
        drop(scope);
        drop(current);
        // The timer may have released the permit during the poll. In that case, the hold is dropped here.
        if let Some(permit) = &mut *lock(&self.permit) {
            *permit.hold_mut() = hold;
        }
        result.map(Ok)
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
