//! The atomics and the mutex that the core stands on: std's, or loom's when the models are checked.

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

use std::sync::PoisonError;

/// Locks `mutex`, also after a panic.
///
/// No user code runs under a lock of this crate, and every critical section leaves its state whole, so a poisoned
/// mutex tells nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A `const fn`, except under loom, whose atomics and mutexes are not made at compile time.
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        $(#[$meta])* #[cfg(not(loom))] $vis const fn $($rest)*
        $(#[$meta])* #[cfg(loom)] $vis fn $($rest)*
    };
}
pub(crate) use const_unless_loom;

/// Waits for a notification. It may come for nothing.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
