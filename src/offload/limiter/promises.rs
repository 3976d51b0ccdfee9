//! Promises: free tokens that queued tasks of pools count on.
//!
//! A queued task of a pool holds no token while it waits for a thread, which it may never get. A promise only keeps
//! other tasks from counting on the same token: pools with bounded queues then admit no more tasks than there are
//! tokens. Any caller may acquire a promised token. The task then waits for another one.

use super::capacity_limiter::CapacityLimiter;
use crate::semaphore::Tokens;
use crate::sync::lock;

impl CapacityLimiter {
    /// Promises a free token to a queued task. Returns `false` if all free tokens are promised.
    pub(crate) fn try_promise(&self) -> bool {
        let semaphore = self.semaphore();
        if semaphore.available() == 0 {
            return false;
        }
        let mut promised = lock(&self.promised);
        let is_free = semaphore.available() > *promised;
        *promised += usize::from(is_free);
        is_free
    }

    /// Returns `true` if more than `tokens` free tokens are not promised.
    pub(crate) fn has_unpromised_above(&self, tokens: usize) -> bool {
        let promised = lock(&self.promised);
        self.semaphore().available() > *promised + tokens
    }

    /// Acquires a token that was promised to a queued task. Other pools see both changes or neither. Returns `false` if
    /// other callers have acquired all tokens.
    pub(crate) fn acquire_promised(&self) -> bool {
        let mut promised = lock(&self.promised);
        let is_acquired = self.semaphore().try_acquire(Tokens::ONE).is_ok();
        *promised -= usize::from(is_acquired);
        is_acquired
    }

    /// Withdraws promises whose tasks need no token any more.
    pub(crate) fn withdraw_promises(&self, promises: usize) {
        if promises > 0 {
            *lock(&self.promised) -= promises;
        }
    }
}
