//! [`LeaseLoss`], which ends the work of a web layer when its lease is lost.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::sync::WaitForCancellationFutureOwned;

#[cfg(any(feature = "tower", feature = "actix-web"))]
use super::permit::HeldPermit;
#[cfg(any(feature = "tower", feature = "actix-web"))]
use super::source::PermitSource;
use crate::backend::Lease;

/// The loss of a lease.
#[derive(Debug)]
pub(crate) struct LeaseLoss {
    lease: Lease,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl LeaseLoss {
    /// Returns `None` if the loss does not end the work, or if the permit has no lease.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn of<S: PermitSource>(permit: &HeldPermit<S>) -> Option<Self> {
        permit
            .lease_that_cancels()
            .map(|lease| Self { lease: lease.clone(), lost: Box::pin(lease.lost().cancelled_owned()) })
    }

    /// Completes when the lease is lost. The caller polls this before the work, because the work must not continue
    /// after a pause of the whole process that outlasts the lease.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The clock shows the loss earlier than the token.
        if self.lease.is_lost() { Poll::Ready(()) } else { self.lost.as_mut().poll(cx) }
    }
}
