//! [`Parker`], where an idle worker waits for work.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, lock, wait, wait_timeout};

/// Parks one worker. An unpark that comes before the park is not lost.
#[derive(Debug, Default)]
pub(crate) struct Parker {
    reason: Mutex<Option<UnparkReason>>,
    unparked: Condvar,
}

/// Why a worker was unparked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnparkReason {
    /// The worker was activated, and searches.
    Work,
    /// There will be no more work.
    Exit,
}

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
        let mut reason =
            if reason.is_some() { reason } else { wait_timeout(&self.reason, &self.unparked, reason, limit) };
        reason.take()
    }

    pub(crate) fn unpark(&self, reason: UnparkReason) {
        *lock(&self.reason) = Some(reason);
        self.unparked.notify_one();
    }
}
