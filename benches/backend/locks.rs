//! The guard of this crate over a store, as all groups use it.

use std::time::{Duration, Instant};

use onelane::EndpointGuard;
use onelane::backend::{LockBackend, LockDomain};
use tokio::runtime::{Builder, Runtime};

use crate::hand_off::serve;
use crate::harness::leak;

/// A guard over a store that is connected.
#[derive(Clone, Copy)]
pub(crate) struct Locks {
    pub(crate) domain: &'static LockDomain,
    pub(crate) guard: &'static EndpointGuard,
}

impl Locks {
    pub(crate) async fn connect(store: impl LockBackend, name: &'static str) -> Self {
        let domain = leak(LockDomain::new("bench"));
        domain.connect(store).await.expect("the store answers");
        Self { domain, guard: leak(EndpointGuard::builder(name).distributed(domain).build()) }
    }

    /// Acquires and drops permits, and returns the time from the first to the last of them.
    pub(crate) async fn acquire_and_drop(&self, repetitions: u64) -> Duration {
        let (start, mut last) = (Instant::now(), 0);
        for _ in 0..repetitions {
            let permit = self.guard.acquire().await.expect("the store answers");
            let fence = permit.lease().expect("the guard is distributed").fence();
            assert!(fence > last, "callers overlapped, or the store forgot its tokens");
            last = fence;
        }
        start.elapsed()
    }

    /// Acquires and releases permits, and returns the time that the acquisitions took.
    pub(crate) async fn acquire_only(&self, repetitions: u64) -> Duration {
        let mut elapsed = Duration::ZERO;
        for _ in 0..repetitions {
            let start = Instant::now();
            let permit = self.guard.acquire().await.expect("the store answers");
            elapsed += start.elapsed();
            permit.release().await.expect("the store answers");
        }
        elapsed
    }
}

/// Runs as a process of `hand_off` with a guard.
pub(crate) fn serve_guard(store: impl LockBackend, runtime: &Runtime, round_trip: impl Fn()) {
    // Processes are killed at the end, and the lock of this name then stays held until its lease ends.
    let locks = runtime.block_on(Locks::connect(store, "hand_off"));
    serve(|| runtime.block_on(locks.guard.acquire()).expect("the store answers"), drop, round_trip);
}

/// Returns a runtime like those of web services.
pub(crate) fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("the runtime is built")
}

/// Returns a runtime that runs on the calling thread.
pub(crate) fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the runtime is built")
}
