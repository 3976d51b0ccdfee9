//! Closing a limiter, and waiting until no token is held.

use std::pin::pin;

use super::capacity_limiter::CapacityLimiter;
use super::semaphores::{AcquiredTokens, TokenRequest};
use crate::panic::FirstPanic;
use crate::semaphore::WaiterId;
use crate::wake::Contained;

impl CapacityLimiter {
    /// Closes the limiter and its reserve: queued and future callers fail with
    /// [`LimiterError::Closed`](super::LimiterError::Closed). Holders keep their tokens.
    pub fn close(&self) {
        let mut panics = FirstPanic::default();
        panics.run(|| self.semaphores.close());
        panics.finish(|| self.notify_if_drained());
    }

    /// Returns `true` if the limiter was [closed](Self::close).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.semaphores.ordinary().is_closed()
    }

    /// Waits until the limiter is [closed](Self::close) and no token is held, neither an ordinary one nor one of the
    /// reserve.
    ///
    /// A future that was granted its tokens before the limiter was closed holds them until it is polled or dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), onelane::offload::LimiterError> {
    /// let limiter = std::sync::Arc::new(onelane::CapacityLimiter::new(2));
    /// let permit = limiter.clone().acquire_owned().await?;
    /// tokio::spawn(async move { drop(permit) });
    /// limiter.close();
    /// limiter.drained().await;
    /// assert_eq!(limiter.stats().borrowed, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drained(&self) {
        loop {
            // The future is created before the check, so that it does not miss a notification after the check.
            let notified = Contained(pin!(self.drained.notified()));
            if self.semaphores.is_drained() {
                return;
            }
            notified.await;
        }
    }

    /// Releases tokens. A closed limiter never takes the fast path, so only the slow path checks if it is drained.
    #[inline]
    pub(super) fn release(&self, tokens: AcquiredTokens) {
        if !self.semaphores.try_release(tokens) {
            self.release_contended(tokens);
        }
    }

    #[cold]
    #[inline(never)]
    fn release_contended(&self, tokens: AcquiredTokens) {
        self.semaphores.release(tokens);
        self.notify_if_drained();
    }

    /// Removes held tokens: the total shrinks by the same number.
    pub(super) fn forget(&self, tokens: AcquiredTokens) {
        self.semaphores.forget(tokens);
        self.notify_if_drained();
    }

    /// Removes a caller from the queue. Tokens that were granted to it go to the next callers.
    pub(super) fn cancel(&self, request: TokenRequest, waiter: WaiterId) {
        self.semaphores.cancel(request, waiter);
        self.notify_if_drained();
    }

    /// Releases one token of a pool, which holds tokens without permits.
    pub(crate) fn release_for_pool(&self) {
        self.release(AcquiredTokens::ONE);
    }

    /// Removes a pool from the queue. The pool waits for one token.
    pub(crate) fn cancel_for_pool(&self, waiter: WaiterId) {
        self.cancel(TokenRequest::ONE, waiter);
    }

    fn notify_if_drained(&self) {
        if self.is_closed() && self.semaphores.is_drained() {
            self.drained.notify_waiters();
        }
    }
}
