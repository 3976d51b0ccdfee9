//! [`PermitSource`], through which one caller acquires and releases a permit.

use std::task::Waker;

use tokio::time::Instant;

use super::core::{GuardCore, HasGuardCore};
use super::error::AcquireError;
use super::error_kind::AcquireErrorKind;
use super::key_map::Hash64;
use super::retry::RetryEstimate;
use crate::backend::LockName;
use crate::scope::{Scope, ScopeId};
use crate::semaphore::{CancelOutcome, EnqueueOutcome, ReleaseOutcome, SemaphoreRefusal, WaitOutcome, WaiterId};

/// One caller's access to a semaphore: a guard, or a guard and one of its keys.
pub(crate) trait PermitSource {
    fn core(&self) -> &GuardCore;

    fn permits(&self) -> usize;

    /// Returns `false` if callers don't wait, but are refused.
    fn waits(&self) -> bool;

    /// Returns the number of waiters of the semaphore.
    fn waiting(&self) -> usize;

    /// Acquires a permit if one is available and no caller is waiting.
    fn try_acquire(&mut self) -> Result<(), SemaphoreRefusal>;

    /// Acquires a permit if one was released in the meantime, or else adds the caller to the queue.
    fn enqueue(&mut self, waker: &Waker) -> EnqueueOutcome;

    /// Returns the outcome of the wait, or `None` while the caller is still waiting. An outcome also removes the waiter
    /// and clears its id.
    fn poll(&mut self, waiter: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome>;

    /// Polls the waiter for the last time and removes it. Returns `None` if the waiter was still waiting.
    fn poll_final(&mut self, waiter: WaiterId) -> Option<WaitOutcome>;

    /// Removes the waiter from the queue and releases its grant, if it has one.
    fn cancel(&mut self, waiter: WaiterId) -> CancelOutcome;

    /// Releases the permit, or grants it to the next waiter if there is one.
    fn release(&mut self) -> ReleaseOutcome;

    /// Removes the permit from use permanently. Returns `true` if it was the last permit of a closed guard.
    fn forget(&mut self) -> bool;

    /// Revokes every untaken grant that was made at or before `limit`. Returns the number of revoked grants and the
    /// time of the oldest remaining grant.
    fn expire_grants(&mut self, limit: Instant, now: Instant) -> (usize, Option<Instant>);

    fn is_closed(&self) -> bool;

    /// Returns `true` if the guard is closed and no permit is held.
    fn is_drained(&self) -> bool;

    /// Returns the name of the lock that other processes see. Called only if the guard is distributed.
    fn lock_name(&self) -> LockName;

    /// Returns the id of the semaphore while one of its permits is held, or `None` if certainly none is held.
    fn scope(&self) -> Option<ScopeId>;

    /// Returns the hash of the key for events. `None` without a key, or once the wait has ended without a permit.
    fn key_hash(&self) -> Option<Hash64> {
        None
    }

    /// Returns `true` if the calling code runs inside this guard.
    fn is_inside(&self) -> bool {
        Scope::is_any() && self.scope().is_some_and(Scope::is_inside)
    }

    /// Revokes the grants that have expired. Returns `true` if there were any.
    #[cold]
    fn expire_now(&mut self) -> bool {
        self.core().limits.grant_timeout.is_some() && self.expire(Instant::now()).0 > 0
    }

    /// Revokes the grants that have expired by `now`. Returns the number of revoked grants and the time of the oldest
    /// remaining grant.
    fn expire(&mut self, now: Instant) -> (usize, Option<Instant>) {
        let Some(limit) = self.core().expiry_limit(now) else { return (0, None) };
        let left = self.left_turn();
        let (grants, oldest) = self.expire_grants(limit, now);
        if grants > 0 {
            self.core().count_expired(self.key_hash(), grants);
            self.clear_turn(left);
            self.notify_if_drained();
        }
        (grants, oldest)
    }

    /// Returns the name of the lock that the last holder may have left for a caller whose grant is about to end.
    fn left_turn(&self) -> Option<LockName> {
        self.core().domain.map(|_| self.lock_name())
    }

    /// Releases the lock that was left for a caller whose grant has ended. The next caller takes it anew.
    fn clear_turn(&self, left: Option<LockName>) {
        if let (Some(domain), Some(name)) = (self.core().domain, left) {
            domain.clear(&name);
        }
    }

    fn notify_if_drained(&self) {
        if self.is_drained() {
            self.core().notify_drained();
        }
    }

    #[inline]
    fn error(&self, refusal: SemaphoreRefusal) -> AcquireError {
        let (kind, retry) = match refusal {
            SemaphoreRefusal::Busy => (AcquireErrorKind::Busy, self.retry_estimate()),
            SemaphoreRefusal::QueueFull => (AcquireErrorKind::QueueFull, self.retry_estimate()),
            SemaphoreRefusal::TooManyKeys => (AcquireErrorKind::TooManyKeys, self.retry_estimate()),
            SemaphoreRefusal::Closed => (AcquireErrorKind::Closed, RetryEstimate::NONE),
        };
        AcquireError::new(Some(self.core().name_ref()), kind, retry)
    }

    #[inline]
    fn retry_estimate(&self) -> RetryEstimate {
        let hold_time = &self.core().hold_time;
        hold_time.request_sample();
        RetryEstimate::new(hold_time.release_interval(), self.waiting())
    }
}

/// A source that can move to its own task.
pub(crate) trait OwnedPermitSource: PermitSource + Send + 'static {
    type Guard: HasGuardCore + Send + Sync + 'static;

    /// Returns the guard, which outlives the source.
    fn guard(&self) -> Self::Guard;
}
