//! The `tracing` events of the store in Redis.

use crate::trace::emit;

/// The server may delete keys when its memory is full.
#[cold]
pub(super) fn may_evict_locks(policy: &str) {
    emit!(WARN, policy, "Redis may evict locks: set maxmemory-policy to noeviction");
}
