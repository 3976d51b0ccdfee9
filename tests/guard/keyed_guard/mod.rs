//! The contract of [`KeyedGuard`], one module per rule.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod acquire_all;
mod blocking;
mod builder;
mod close;
mod dropped_keys;
mod eviction;
mod grant_timeout;
mod keys;
mod max_keys;
mod max_wait;
mod order;
mod panic;
mod queue_bound;
mod run;
mod stats;
mod storm;

use std::hash::Hash;

use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use onelane::guard::futures::AcquireKey;
use onelane::{AcquireError, KeyedGuard};
use tokio_test::{assert_pending, task};

fn assert_idle<K: Hash + Eq>(guard: &KeyedGuard<K>) {
    let GuardStats { held, waiting, detached, .. } = guard.stats();
    assert_eq!((held, waiting, detached), (0, 0, 0));
    assert_eq!(guard.len(), 0, "a key remains");
    assert!(guard.is_empty());
}

fn is_too_many(error: &AcquireError) -> bool {
    error.kind() == AcquireErrorKind::TooManyKeys
}

fn is_timeout(error: &AcquireError) -> bool {
    error.kind() == AcquireErrorKind::Timeout
}

/// Returns a caller that is enqueued.
fn queued<K: Hash + Eq>(guard: &KeyedGuard<K>, key: K) -> task::Spawn<AcquireKey<'_, K>> {
    let mut caller = task::spawn(guard.acquire(key));
    assert_pending!(caller.poll());
    caller
}

/// Returns a caller that was granted a permit and has not been polled since.
fn granted<K: Hash + Eq + Copy>(guard: &KeyedGuard<K>, key: K) -> task::Spawn<AcquireKey<'_, K>> {
    let permit = guard.try_acquire(key).unwrap();
    let caller = queued(guard, key);
    drop(permit);
    assert!(caller.is_woken());
    caller
}
