//! The contract of [`EndpointGuard`], one module per rule.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod blocking;
mod builder;
mod close;
mod cooperation;
mod drop_order;
mod error;
mod eviction;
mod forget;
mod futurelock;
mod max_wait;
mod nesting;
mod order;
mod panic;
mod permits;
mod queue_bound;
mod retry_after;
mod run_to_completion;
mod stats;

use onelane::EndpointGuard;
use onelane::guard::GuardStats;

fn assert_idle(guard: &EndpointGuard) {
    let GuardStats { held, waiting, detached, .. } = guard.stats();
    assert_eq!((held, waiting, detached), (0, 0, 0));
}
