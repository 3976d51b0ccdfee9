//! Guards that are distributed over several processes.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod cancellation;
mod checked_store;
mod checked_write;
#[cfg(target_os = "linux")]
mod clocks;
mod conformance;
mod errors;
mod fairness;
#[cfg(target_os = "linux")]
mod host;
mod in_memory;
#[cfg(target_os = "linux")]
mod leader_processes;
mod leaders;
mod leases;
#[cfg(target_os = "linux")]
mod many_keys;
mod outages;
mod passing_on;
mod postgres;
mod processes;
mod redis;
mod redis_failover;
mod stores;
mod storm;
mod together;
mod turns;
mod web;

use std::time::Duration;

use onelane::EndpointGuard;
use onelane::backend::LockDomain;
use support::counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MS: Duration = Duration::from_millis(1);
/// Longer than any operation that ends at all takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A domain for one test.
fn domain(settings: impl FnOnce(LockDomain) -> LockDomain) -> &'static LockDomain {
    Box::leak(Box::new(settings(LockDomain::new("test"))))
}

fn guard(domain: &'static LockDomain) -> EndpointGuard {
    EndpointGuard::builder("report").distributed(domain).build()
}
