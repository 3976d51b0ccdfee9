//! Round trips for a turn, while many callers want the lock.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onelane::backend::{Attempt, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::harness::{RacyCounter, is_measured, is_selected, leak};
use crate::locks::Locks;

const TASKS: u64 = 64;
/// Longer than any group takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store that counts its requests: attempts and releases.
#[derive(Debug)]
struct Counted<S> {
    store: S,
    requests: &'static AtomicU64,
}

impl<S: LockBackend> LockBackend for Counted<S> {
    fn connect<'a>(&'a self, domain: &'a str) -> BackendFuture<'a, ()> {
        self.store.connect(domain)
    }

    fn check(&self) -> BackendFuture<'_, ()> {
        self.store.check()
    }

    fn lease(&self) -> Option<Duration> {
        self.store.lease()
    }

    fn try_acquire<'a>(&'a self, lock: &'a LockName, owner: Owner, tokens: u32) -> BackendFuture<'a, Attempt> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.store.try_acquire(lock, owner, tokens)
    }

    fn renew<'a>(&'a self, leases: &'a [LeaseId]) -> BackendFuture<'a, Vec<bool>> {
        self.store.renew(leases)
    }

    fn release<'a>(&'a self, lease: &'a LeaseId) -> BackendFuture<'a, Released> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.store.release(lease)
    }

    fn released<'a>(&'a self, lock: &'a LockName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        self.store.released(lock)
    }
}

/// Counts the requests that the store gets while the tasks of one process take turns, and of two processes.
pub(crate) fn measure_cohort<S: LockBackend>(group: &str, runtime: &Runtime, store: impl Fn() -> S) {
    if !is_selected(group) {
        return;
    }
    for processes in [1, 2] {
        let requests: &AtomicU64 = leak(AtomicU64::new(0));
        let connect = || runtime.block_on(Locks::connect(Counted { store: store(), requests }, "cohort"));
        let all: Vec<_> = (0..processes).map(|_| connect()).collect();
        let rounds: u64 = if is_measured() { 300 } else { 2 };
        let (turns, start) = (processes * TASKS * rounds, Instant::now());
        let taken = runtime.block_on(async { timeout(PATIENCE, take_turns(&all, rounds)).await });
        taken.expect("every caller gets its turns");
        let elapsed = start.elapsed();
        all.iter().for_each(|locks| runtime.block_on(locks.domain.disconnect()));
        let requests = requests.load(Ordering::Relaxed);
        assert!(requests > 0, "turns need requests");
        if is_measured() {
            println!(
                "{group}/processes_{processes}: {:.3} requests a turn, {:.1} µs a turn",
                requests as f64 / turns as f64,
                elapsed.as_secs_f64() * 1e6 / turns as f64,
            );
        }
    }
}

async fn take_turns(all: &[Locks], rounds: u64) {
    let counter: &RacyCounter = leak(RacyCounter::default());
    let spawn = |locks: &Locks| {
        let guard = locks.guard;
        tokio::spawn(async move {
            for _ in 0..rounds {
                let _permit = guard.acquire().await.expect("the store answers");
                let before = counter.add_one();
                tokio::task::yield_now().await;
                assert_eq!(counter.get(), before, "callers overlapped");
            }
        })
    };
    let tasks: Vec<_> = all.iter().flat_map(|locks| (0..TASKS).map(move |_| spawn(locks))).collect();
    let total = tasks.len() as u64 * rounds;
    for task in tasks {
        task.await.expect("no panic");
    }
    counter.assert_total(total);
}
