//! [`Parker`], where an idle worker waits for work.

#[cfg(not(loom))]
use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// Parks one worker. An unpark that comes before the park is not lost.
#[derive(Debug, Default)]
pub(crate) struct Parker {
    reason: Mutex<Option<UnparkReason>>,
    unparked: Condvar,
}

/// Why a worker was unparked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnparkReason {
    /// It was activated, and holds a token.
    Work,
    /// There will be no more work.
    Exit,
}

type ReasonGuard<'a> = MutexGuard<'a, Option<UnparkReason>>;

impl Parker {
    /// Waits until the worker is unparked.
    pub(crate) fn park(&self) -> UnparkReason {
        let mut reason = lock(&self.reason);
        loop {
            match reason.take() {
                Some(reason) => return reason,
                None => reason = wait(&self.unparked, reason),
            }
        }
    }

    /// Waits until the worker is unparked, for at most `limit`. May return `None` earlier.
    pub(crate) fn park_timeout(&self, limit: Duration) -> Option<UnparkReason> {
        let reason = lock(&self.reason);
        let mut reason = if reason.is_some() { reason } else { self.wait_timeout(reason, limit) };
        reason.take()
    }

    #[cfg(not(loom))]
    fn wait_timeout<'a>(&self, reason: ReasonGuard<'a>, limit: Duration) -> ReasonGuard<'a> {
        self.unparked.wait_timeout(reason, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// No time passes in a model: the wait times out as soon as the other threads have had their turn.
    #[cfg(loom)]
    fn wait_timeout<'a>(&'a self, reason: ReasonGuard<'a>, _: Duration) -> ReasonGuard<'a> {
        drop(reason);
        loom::thread::yield_now();
        lock(&self.reason)
    }

    pub(crate) fn unpark(&self, reason: UnparkReason) {
        *lock(&self.reason) = Some(reason);
        self.unparked.notify_one();
    }
}
