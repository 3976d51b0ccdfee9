//! Tests that use the whole process: its memory, its latency, its global subscriber. They run one at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use support::counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Keeps the other tests of this binary from running until the returned guard is dropped.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

mod blocked_runtime;
mod host_drain;
mod latency;
mod leak;
mod refused_thread;
