//! [`Parker`], where an idle worker waits for work.

#[cfg(not(loom))]
use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// One worker's place to wait. Who signals before it parks has not done so in vain.
#[derive(Debug, Default)]
pub(crate) struct Parker {
    signal: Mutex<Option<Signal>>,
    thread: Condvar,
}

/// Why a worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It was called, and holds a token.
    Work,
    /// There will be no more work.
    Leave,
}

impl Parker {
    /// Waits for a signal.
    pub(crate) fn park(&self) -> Signal {
        let mut signal = lock(&self.signal);
        loop {
            match signal.take() {
                Some(signal) => return signal,
                None => signal = wait(&self.thread, signal),
            }
        }
    }

    /// Waits for a signal, for `limit` at most, or less.
    pub(crate) fn park_for(&self, limit: Duration) -> Option<Signal> {
        let signal = lock(&self.signal);
        let mut signal = if signal.is_some() { signal } else { self.wait_for(signal, limit) };
        signal.take()
    }

    #[cfg(not(loom))]
    fn wait_for<'a>(&self, signal: MutexGuard<'a, Option<Signal>>, limit: Duration) -> MutexGuard<'a, Option<Signal>> {
        self.thread.wait_timeout(signal, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// In a model no time passes: it is over as soon as others had their turn.
    #[cfg(loom)]
    fn wait_for<'a>(&'a self, signal: MutexGuard<'a, Option<Signal>>, _: Duration) -> MutexGuard<'a, Option<Signal>> {
        drop(signal);
        loom::thread::yield_now();
        lock(&self.signal)
    }

    pub(crate) fn unpark(&self, signal: Signal) {
        *lock(&self.signal) = Some(signal);
        self.thread.notify_one();
    }
}
