//! The synchronization primitives that the crate is built on: std's, or loom's in the models. Only this module chooses
//! between them.

#[cfg(feature = "offload")]
mod cache_aligned;
#[cfg(all(test, loom))]
mod loom_backend;
#[cfg(not(all(test, loom)))]
mod std_backend;

use std::sync::PoisonError;

#[cfg(feature = "offload")]
pub(crate) use self::cache_aligned::CacheAligned;
#[cfg(all(test, loom))]
pub(crate) use self::loom_backend::{ArcSwap, Condvar, Mutex, MutexGuard, ThreadId, atomic, thread_id, wait_timeout};
#[cfg(all(feature = "offload", not(all(test, loom))))]
pub(crate) use self::std_backend::{ArcSwap, ThreadId, thread_id};
#[cfg(not(all(test, loom)))]
pub(crate) use self::std_backend::{Condvar, Mutex, MutexGuard, atomic, wait_timeout};

/// Locks `mutex`, ignoring poison.
///
/// No user code runs with a lock of this crate held, and every critical section leaves its state consistent, so poison
/// carries no information.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Declares a `const fn`, or a plain `fn` under loom, whose atomics and mutexes have no `const` constructors.
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        $(#[$meta])* #[cfg(not(all(test, loom)))] $vis const fn $($rest)*
        $(#[$meta])* #[cfg(all(test, loom))] $vis fn $($rest)*
    };
}
pub(crate) use const_unless_loom;

/// Waits for a notification. May return without one (spurious wake-up).
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
