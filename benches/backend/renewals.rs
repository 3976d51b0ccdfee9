//! The CPU time of permits that are held and renewed.

use std::time::{Duration, Instant};

use onelane::KeyedGuard;
use onelane::backend::{LockBackend, LockDomain};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::harness::{cpu_time, is_measured, is_selected, leak};

/// Holds 1,000 permits for several renewals, and prints the CPU time and the connections that this takes.
pub(crate) fn measure_renewals<S: LockBackend>(
    group: &str,
    runtime: &Runtime,
    store: impl Fn() -> S,
    count_connections: impl Fn() -> u64,
) {
    if !is_selected(group) {
        return;
    }
    let (held, time) = if is_measured() { (1_000, Duration::from_secs(30)) } else { (100, Duration::ZERO) };
    let (domain, before) = (leak(LockDomain::new("idle")), count_connections());
    let guard: &KeyedGuard<u32> = leak(KeyedGuard::builder("user").distributed(domain).build());
    let permits = runtime.block_on(async {
        domain.connect(store()).await.expect("the store answers");
        let mut permits = Vec::new();
        for key in 0..held {
            permits.push(guard.acquire(key).await.expect("the store answers"));
        }
        permits
    });
    let connections = count_connections() - before;
    assert_eq!(connections, 1, "all permits share a connection");
    let (cpu, start) = (cpu_time(), Instant::now());
    runtime.block_on(async { sleep(time).await });
    let part = (cpu_time() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(
        permits.iter().all(|permit| !permit.lease().expect("the guard is distributed").is_lost()),
        "all are renewed"
    );
    if is_measured() {
        println!("{group}: {held} permits take {:.3} % of a core, and {connections} connection", part * 100.0);
    }
    drop(permits);
    runtime.block_on(domain.disconnect());
}
