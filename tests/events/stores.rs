//! Stores and leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use onelane::backend::{
    Attempt, BackendError, BackendFuture, LeaseId, LockBackend, LockDomain, LockName, Owner, Redis, Released,
    WhenUnavailable,
};
use onelane::background::{ServiceHost, service_fn};
use onelane::guard::AcquireErrorKind;
use onelane::{EndpointGuard, KeyedGuard};
use support::leak;
use support::redis::RedisServer;
use tokio::time::timeout;

/// Longer than the lease.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store that gives each lock to all, until it fails or forgets its locks.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestStore {
    pub(crate) fails: Arc<AtomicBool>,
    forgets: Arc<AtomicBool>,
    tokens: Arc<AtomicU64>,
}

impl TestStore {
    fn answer<'a, T: Send + 'a>(&self, answer: T) -> BackendFuture<'a, T> {
        let fails = self.fails.load(Ordering::SeqCst);
        Box::pin(async move { if fails { Err(BackendError::new("the test wants an error")) } else { Ok(answer) } })
    }
}

impl LockBackend for TestStore {
    fn connect<'a>(&'a self, _: &'a str) -> BackendFuture<'a, ()> {
        self.answer(())
    }

    fn check(&self) -> BackendFuture<'_, ()> {
        self.answer(())
    }

    fn lease(&self) -> Option<Duration> {
        Some(Duration::from_millis(200))
    }

    fn try_acquire<'a>(&'a self, _: &'a LockName, _: Owner, tokens: u32) -> BackendFuture<'a, Attempt> {
        self.answer(Attempt::Acquired { fence: self.tokens.fetch_add(tokens.into(), Ordering::SeqCst) + 1 })
    }

    fn renew<'a>(&'a self, leases: &'a [LeaseId]) -> BackendFuture<'a, Vec<bool>> {
        self.answer(vec![!self.forgets.load(Ordering::SeqCst); leases.len()])
    }

    fn release<'a>(&'a self, _: &'a LeaseId) -> BackendFuture<'a, Released> {
        self.answer(Released::default())
    }
}

pub(crate) async fn scenario() {
    let server = RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]);
    let store = Redis::new(redis::Client::open(&*server.url).unwrap());
    store.connect("shop").await.unwrap();

    let store = TestStore::default();
    let locks = leak(LockDomain::new("shop").when_unavailable(WhenUnavailable::FailLocal));
    locks.connect(store.clone()).await.unwrap();
    let guard = EndpointGuard::builder("report").distributed(locks).build();
    for failure in [&store.forgets, &store.fails] {
        let permit = guard.acquire().await.unwrap();
        failure.store(true, Ordering::SeqCst);
        timeout(PATIENCE, permit.lease().unwrap().lost().cancelled()).await.unwrap();
    }
    drop(guard.acquire().await.unwrap());

    store.fails.store(false, Ordering::SeqCst);
    let locks = leak(LockDomain::new("leaders"));
    locks.connect(store.clone()).await.unwrap();
    let guard = EndpointGuard::builder("leader").distributed(locks).build();
    let leader = service_fn("leader", |_| std::future::pending()).guard(guard);
    let host = ServiceHost::builder().service(leader).build().unwrap();
    host.start().await.unwrap();
    let ends = async {
        while host.status().service("leader").is_some_and(|leader| leader.last_exit().is_none()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ends).await.unwrap();
    let _ = host.shutdown().await.unwrap();

    let forgotten = leak(LockDomain::new("forgotten"));
    let guard = KeyedGuard::<u64>::builder("user").distributed(forgotten).build();
    assert_eq!(guard.acquire(7).await.unwrap_err().kind(), AcquireErrorKind::NotConnected);
}
