//! The synchronization primitives outside the models: std's and arc-swap's.

use std::sync::PoisonError;
use std::time::Duration;

#[cfg(feature = "offload")]
pub(crate) use arc_swap::ArcSwap;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(feature = "offload")]
pub(crate) use std::thread::ThreadId;

/// Identifies the current thread.
#[cfg(feature = "offload")]
pub(crate) fn thread_id() -> ThreadId {
    std::thread::current().id()
}

/// Waits for a notification, for at most `limit`. May return earlier.
pub(crate) fn wait_timeout<'a, T>(
    _mutex: &'a Mutex<T>,
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}
