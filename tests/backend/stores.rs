//! What the tests of all stores share.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use onelane::backend::{Attempt, BackendError, LeaseId, LockBackend, LockDomain, LockName, Owner};
use onelane::guard::AcquireErrorKind;
use onelane::{AcquireError, EndpointGuard, KeyedGuard};
use support::client::PATIENCE;
use support::leak;
use support::proxy::{Disturbance, Proxy};
use tokio::time::{sleep, timeout};

pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// Takes a lock that is free.
pub(crate) async fn take(store: &impl LockBackend, name: &LockName) -> Result<LeaseId, BackendError> {
    let owner = Owner::random();
    match store.try_acquire(name, owner, 1).await? {
        Attempt::Acquired { fence } => Ok(LeaseId::new(name.clone(), owner, Some(fence))),
        Attempt::Held { .. } => panic!("{name:?} is held"),
    }
}

/// Returns `true` if an owner holds the lock.
pub(crate) async fn is_held(store: &impl LockBackend, name: &LockName) -> bool {
    let owner = Owner::random();
    let attempt = store.try_acquire(name, owner, 1).await.unwrap();
    store.release(&LeaseId::new(name.clone(), owner, None)).await.unwrap();
    matches!(attempt, Attempt::Held { .. })
}

/// Returns the error of a store that can't be connected.
pub(crate) async fn connect_error(store: impl LockBackend) -> String {
    let domain = leak(LockDomain::new("shop"));
    let began = Instant::now();
    let error = domain.connect(store).await.unwrap_err();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(!domain.is_connected());
    text(&error)
}

/// An attempt takes nothing if the network delivers it after the release that its caller has sent. `store` is connected
/// through the proxy.
pub(crate) async fn late_attempt_takes_nothing(store: &impl LockBackend, other: &impl LockBackend, proxy: &Proxy) {
    let (name, owner) = (LockName::new("report", None), Owner::random());
    proxy.disturb(Disturbance::Late(LEASE / 2));
    let began = Instant::now();
    let attempt = async {
        store.try_acquire(&name, owner, 1).await.expect_err("the store does not answer in time");
        store.release(&LeaseId::new(name.clone(), owner, None)).await.unwrap();
    };
    let end = async {
        // The attempt is on its way.
        sleep(LEASE / 10).await;
        proxy.disturb(Disturbance::Nothing);
    };
    tokio::join!(attempt, end);
    assert!(!is_held(other, &name).await);
    sleep((LEASE / 2 + LEASE / 10).saturating_sub(began.elapsed())).await;
    assert!(!is_held(other, &name).await, "the attempt was executed after its release");
}

/// The guards of a process, with a domain of their own. Processes with the same domain name exclude each other.
pub(crate) struct Process {
    pub(crate) guard: &'static EndpointGuard,
    pub(crate) keyed: &'static KeyedGuard<String>,
}

pub(crate) async fn process(store: impl LockBackend) -> Process {
    let domain = leak(LockDomain::new("shop"));
    domain.connect(store).await.unwrap();
    let guard = EndpointGuard::builder("report").distributed(domain).max_wait(Duration::from_secs(5)).build();
    let keyed = KeyedGuard::builder("user").distributed(domain).max_wait(Duration::from_secs(5)).build();
    Process { guard: leak(guard), keyed: leak(keyed) }
}

impl Process {
    /// Acquires and releases, and repeats that until it succeeds. Returns how long this took.
    pub(crate) async fn works_again(&self) -> Duration {
        let began = Instant::now();
        loop {
            match self.turn().await {
                Ok(()) => return began.elapsed(),
                Err(error) => assert!(began.elapsed() < PATIENCE, "the guard does not work again: {error:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Acquires and releases.
    pub(crate) async fn turn(&self) -> Result<(), AcquireError> {
        // Never reached unless a call hangs: the guard's own time limit is shorter.
        let acquired = timeout(PATIENCE, self.guard.acquire()).await;
        let permit = acquired.unwrap_or_else(|_| panic!("an acquisition hangs"))?;
        let released = timeout(PATIENCE, permit.release()).await;
        // A store that has just failed may fail the release, too.
        let _ = released.unwrap_or_else(|_| panic!("a release hangs"));
        Ok(())
    }

    /// The store ends while a permit is held. The holder is notified, and the next caller soon gets an error. Returns
    /// the token of the permit.
    pub(crate) async fn notices_the_end_of_the_store(&self, kill: impl FnOnce()) -> u64 {
        let permit = self.guard.acquire().await.unwrap();
        let (lost, fence) = (permit.lease().unwrap().lost(), permit.lease().unwrap().fence());
        kill();
        timeout(PATIENCE, lost.cancelled()).await.expect("the holder is notified");
        assert!(permit.lease().unwrap().is_lost());
        drop(permit);
        let began = Instant::now();
        let error = self.turn().await.unwrap_err();
        assert_eq!(error.kind(), AcquireErrorKind::Unavailable);
        assert!(text(&error).contains("can't be reached"), "{}", text(&error));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        fence
    }

    pub(crate) async fn works_again_with_larger_tokens(&self, fence: u64) {
        let took = self.works_again().await;
        assert!(took < Duration::from_secs(4), "{took:?}");
        let permit = self.guard.acquire().await.unwrap();
        assert!(permit.lease().unwrap().fence() > fence);
    }

    /// Connections that stay silent forever are replaced.
    pub(crate) async fn survives_lost_connections(&self, proxy: &Proxy) {
        for _ in 0..2 {
            self.turn().await.unwrap();
            proxy.disturb(Disturbance::Lost);
            self.turn().await.expect_err("the store does not answer");
            // This attempt to connect will never succeed.
            self.turn().await.expect_err("the store does not answer");
            proxy.disturb(Disturbance::Nothing);
            let took = self.works_again().await;
            assert!(took < Duration::from_secs(4), "{took:?}");
        }
    }

    pub(crate) async fn survives_disturbances(&self, proxy: &Proxy) {
        self.turn().await.unwrap();
        for disturbance in [
            Disturbance::Closed,
            Disturbance::Silent,
            Disturbance::HalfClosed,
            Disturbance::Late(Duration::from_secs(2)),
            Disturbance::Silent,
        ] {
            let permit = self.guard.acquire().await.unwrap();
            let lost = permit.lease().unwrap().lost();
            proxy.disturb(disturbance);
            let noticed = timeout(PATIENCE, lost.cancelled()).await;
            assert!(noticed.is_ok(), "{disturbance:?}: the holder is not notified");
            drop(permit);
            let began = Instant::now();
            let error = self.turn().await.expect_err("the store does not answer");
            assert!(began.elapsed() < Duration::from_secs(6), "{disturbance:?}: {:?}", began.elapsed());
            assert_eq!(error.kind(), AcquireErrorKind::Unavailable, "{disturbance:?}");
            proxy.disturb(Disturbance::Nothing);
            let took = self.works_again().await;
            assert!(took < Duration::from_secs(4), "{disturbance:?}: {took:?}");
        }
        // A delay that is shorter than the time limit of a call does no harm.
        proxy.disturb(Disturbance::Late(Duration::from_millis(50)));
        self.turn().await.unwrap();
    }

    /// Dropping a permit frees the lock for another process long before the end of the lease.
    pub(crate) async fn frees_its_lock_at_once(&self, other: &impl LockBackend) {
        let permit = self.guard.acquire().await.unwrap();
        let name = LockName::new("report", None);
        assert!(is_held(other, &name).await);
        drop(permit);
        let began = Instant::now();
        while is_held(other, &name).await {
            assert!(began.elapsed() < LEASE / 2, "the lock is still held");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Uses keys once.
    pub(crate) async fn use_keys(&self, keys: Range<usize>) {
        const TASKS: usize = 10;
        let next: &AtomicUsize = leak(AtomicUsize::new(keys.start));
        let keyed = self.keyed;
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                tokio::spawn(async move {
                    loop {
                        let key = next.fetch_add(1, Ordering::SeqCst);
                        if key >= keys.end {
                            break;
                        }
                        keyed.acquire(key.to_string()).await.unwrap().release().await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    /// Drops callers at random times, while they acquire or hold the lock. Then nothing is held.
    pub(crate) async fn drop_callers(&self, other: &Self) {
        for _ in 0..200 {
            let pause = Duration::from_micros(fastrand::u64(0..3_000));
            let blocks = fastrand::bool().then(|| other.guard.acquire());
            let blocking = match blocks {
                Some(acquire) => Some(acquire.await.unwrap()),
                None => None,
            };
            let caller = async {
                let permit = self.guard.acquire().await.unwrap();
                sleep(PATIENCE).await;
                drop(permit);
            };
            let _ = timeout(pause, caller).await;
            drop(blocking);
        }
        // Locks that were given to dropped callers are released, and not left to the end of their leases.
        let began = Instant::now();
        for _ in 0..20 {
            other.guard.acquire().await.unwrap().release().await.unwrap();
        }
        assert!(began.elapsed() < LEASE / 2, "{:?}", began.elapsed());
    }
}

/// Returns the text of an error and of its sources.
pub(crate) fn text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
