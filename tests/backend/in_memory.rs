//! A store in memory, whose answers a test can change and delay.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onelane::backend::{Attempt, BackendError, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// A process that is connected to a [`Store`].
#[derive(Clone, Debug)]
pub(super) struct InMemory {
    pub(super) store: Arc<Store>,
    pub(super) lease: Option<Duration>,
    pub(super) flaw: Flaw,
}

/// What a broken store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    GivesTheLockToAll,
    RepeatsTokens,
    ReleasesForAll,
    IgnoresTokensOfReleases,
    RenewsWhatIsLost,
    KeepsForever,
    ReportsNoRelease,
    MixesKeys,
    KnowsNoWaiters,
    /// The sources of its errors can't be displayed.
    PanicsInErrors,
    /// Waiting for a release panics.
    PanicsInReleased,
    /// A renewal blocks its thread for longer than a lease.
    BlocksRenewals,
}

#[derive(Debug)]
struct PanickingError;

impl fmt::Display for PanickingError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("the test wants an error that panics")
    }
}

impl Error for PanickingError {}

#[derive(Debug)]
pub(super) struct Store {
    state: Mutex<StoreState>,
    released: Notify,
    /// Each call takes a permit and gives the permit back, so a test can make calls hang.
    gate: Semaphore,
    /// How many calls were made.
    pub(super) attempts: AtomicUsize,
    pub(super) renewals: AtomicUsize,
    pub(super) releases: AtomicUsize,
}

#[derive(Debug, Default)]
struct StoreState {
    held: HashMap<(String, Option<String>), Held>,
    tokens: HashMap<String, u64>,
    waiting: HashMap<(String, Option<String>), usize>,
    fails: bool,
    panics: bool,
}

#[derive(Debug)]
struct Held {
    owner: Owner,
    fence: u64,
    expires_at: Option<Instant>,
}

impl Default for Store {
    fn default() -> Self {
        let zero = AtomicUsize::default;
        let (state, released) = (Mutex::default(), Notify::new());
        Self { state, released, gate: Semaphore::new(1_000), attempts: zero(), renewals: zero(), releases: zero() }
    }
}

impl Store {
    /// Makes all calls fail, or succeed again.
    pub(super) fn fail(&self, fails: bool) {
        self.state.lock().unwrap().fails = fails;
    }

    /// Makes all calls panic, or succeed again.
    pub(super) fn panic(&self, panics: bool) {
        self.state.lock().unwrap().panics = panics;
    }

    /// Makes all calls hang.
    pub(super) async fn hang(&self) {
        self.gate.acquire_many(1_000).await.unwrap().forget();
    }

    pub(super) fn answer_again(&self) {
        self.gate.add_permits(1_000);
    }

    /// Forgets all locks, but no tokens.
    pub(super) fn forget_locks(&self) {
        self.state.lock().unwrap().held.clear();
    }

    pub(super) fn held(&self) -> usize {
        let now = Instant::now();
        let state = self.state.lock().unwrap();
        state.held.values().filter(|held| held.expires_at.is_none_or(|at| at > now)).count()
    }

    pub(super) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }

    async fn call<T>(&self, count: &AtomicUsize, call: impl FnOnce(&mut StoreState) -> T) -> Result<T, BackendError> {
        count.fetch_add(1, Ordering::Relaxed);
        let _permit = self.gate.acquire().await.unwrap();
        // A panic must not poison the store.
        let panics = self.state.lock().unwrap().panics;
        assert!(!panics, "the test wants a panic");
        let mut state = self.state.lock().unwrap();
        if state.fails { Err(BackendError::new("the test wants an error")) } else { Ok(call(&mut state)) }
    }
}

impl InMemory {
    pub(super) fn new(store: &Arc<Store>, lease: Duration) -> Self {
        Self { store: Arc::clone(store), lease: Some(lease), flaw: Flaw::None }
    }

    fn key(&self, lock: &LockName) -> (String, Option<String>) {
        let key = lock.key().filter(|_| self.flaw != Flaw::MixesKeys);
        (lock.guard().to_owned(), key.map(str::to_owned))
    }

    fn expiry(&self) -> Option<Instant> {
        self.lease.filter(|_| self.flaw != Flaw::KeepsForever).map(|lease| Instant::now() + lease)
    }
}

impl Held {
    fn is_of(&self, lease: &LeaseId) -> bool {
        self.owner == lease.owner && lease.fence.is_none_or(|fence| fence == self.fence)
    }
}

impl LockBackend for InMemory {
    fn connect<'a>(&'a self, _: &'a str) -> BackendFuture<'a, ()> {
        self.check()
    }

    fn check(&self) -> BackendFuture<'_, ()> {
        Box::pin(async { self.store.call(&AtomicUsize::new(0), |_| ()).await })
    }

    fn lease(&self) -> Option<Duration> {
        self.lease
    }

    fn try_acquire<'a>(&'a self, lock: &'a LockName, owner: Owner, tokens: u32) -> BackendFuture<'a, Attempt> {
        let acquire = move |state: &mut StoreState| {
            let now = Instant::now();
            let key = self.key(lock);
            if let Some(held) = state.held.get(&key)
                && held.expires_at.is_none_or(|at| at > now)
                && self.flaw != Flaw::GivesTheLockToAll
            {
                return Attempt::Held { expires_in: held.expires_at.map(|at| at - now) };
            }
            let reserved = state.tokens.entry(lock.guard().to_owned()).or_default();
            let fence = *reserved + 1;
            if self.flaw != Flaw::RepeatsTokens {
                *reserved += u64::from(tokens);
            }
            state.held.insert(key, Held { owner, fence, expires_at: self.expiry() });
            Attempt::Acquired { fence }
        };
        let call = self.store.call(&self.store.attempts, acquire);
        Box::pin(async move {
            let panics = self.flaw == Flaw::PanicsInErrors;
            call.await.map_err(|error| if panics { error.with_source(PanickingError) } else { error })
        })
    }

    fn renew<'a>(&'a self, leases: &'a [LeaseId]) -> BackendFuture<'a, Vec<bool>> {
        let renew = move |state: &mut StoreState| {
            let now = Instant::now();
            let mut renewed = Vec::new();
            for lease in leases {
                let held = state.held.get_mut(&self.key(&lease.lock));
                let held = held.filter(|held| held.is_of(lease) && held.expires_at.is_none_or(|at| at > now));
                renewed.push(held.is_some() || self.flaw == Flaw::RenewsWhatIsLost);
                if let Some(held) = held {
                    held.expires_at = self.expiry();
                }
            }
            renewed
        };
        if self.flaw == Flaw::BlocksRenewals {
            std::thread::sleep(self.lease.unwrap_or_default() * 2);
        }
        Box::pin(self.store.call(&self.store.renewals, renew))
    }

    fn release<'a>(&'a self, lease: &'a LeaseId) -> BackendFuture<'a, Released> {
        let release = move |state: &mut StoreState| {
            let key = self.key(&lease.lock);
            let is_of = |held: &Held| match self.flaw {
                Flaw::ReleasesForAll => true,
                Flaw::IgnoresTokensOfReleases => held.owner == lease.owner,
                _ => held.is_of(lease),
            };
            if !state.held.get(&key).is_some_and(is_of) {
                return Released::default();
            }
            state.held.remove(&key);
            if self.flaw != Flaw::ReportsNoRelease {
                self.store.released.notify_waiters();
            }
            let waiting = state.waiting.get(&key).filter(|_| self.flaw != Flaw::KnowsNoWaiters);
            Released { waiting: waiting.copied().unwrap_or_default() }
        };
        Box::pin(self.store.call(&self.store.releases, release))
    }

    fn released<'a>(&'a self, lock: &'a LockName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            assert_ne!(self.flaw, Flaw::PanicsInReleased, "the test wants a panic");
            let mut released = pin!(self.store.released.notified());
            released.as_mut().enable();
            let _waiting = Waiting::new(self, self.key(lock));
            released.await;
        })
    }
}

struct Waiting<'a>(&'a InMemory, (String, Option<String>));

impl<'a> Waiting<'a> {
    fn new(process: &'a InMemory, key: (String, Option<String>)) -> Self {
        *process.store.state.lock().unwrap().waiting.entry(key.clone()).or_default() += 1;
        Self(process, key)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.store.state.lock().unwrap();
        let count = state.waiting.get_mut(&self.1).unwrap();
        *count -= 1;
        if *count == 0 {
            state.waiting.remove(&self.1);
        }
    }
}
