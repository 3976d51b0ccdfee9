//! A store in memory, whose answers a test can change and delay.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use onelane::backend::{Attempt, BackendError, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

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
    FailsToConnect,
    FailsItsChecks,
    CountsTokensPerKey,
    KeepsKeys,
    NeedsTokens,
    OnlyClaimsToRenew,
    ReportsAllTheTime,
    ImaginesWaiters,
    ChecksBeforeItTakes,
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
    /// How many times each call returns `Pending` before it is executed, and again before its answer arrives.
    pub(super) pending: AtomicUsize,
}

#[derive(Debug, Default)]
struct StoreState {
    held: HashMap<(String, Option<String>), Held>,
    tokens: HashMap<String, u64>,
    waiting: HashMap<(String, Option<String>), usize>,
    fails: bool,
    /// Answers get lost: calls fail although they were executed.
    loses_answers: bool,
    panics: bool,
    delay: Duration,
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
        Self {
            state,
            released,
            gate: Semaphore::new(1_000),
            attempts: zero(),
            renewals: zero(),
            releases: zero(),
            pending: zero(),
        }
    }
}

impl Store {
    /// Makes all calls fail, or succeed again.
    pub(super) fn fail(&self, fails: bool) {
        self.state.lock().unwrap().fails = fails;
    }

    /// Makes all calls fail after they were executed, or succeed again.
    pub(super) fn lose_answers(&self, loses_answers: bool) {
        self.state.lock().unwrap().loses_answers = loses_answers;
    }

    /// Makes all calls panic, or succeed again.
    pub(super) fn panic(&self, panics: bool) {
        self.state.lock().unwrap().panics = panics;
    }

    /// Makes each call take this long.
    pub(super) fn answer_after(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
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
        self.stay_pending().await;
        let delay = self.state.lock().unwrap().delay;
        // A store without a delay answers at once.
        if !delay.is_zero() {
            sleep(delay).await;
        }
        // A panic must not poison the store.
        let panics = self.state.lock().unwrap().panics;
        assert!(!panics, "the test wants a panic");
        let result = {
            let mut state = self.state.lock().unwrap();
            let answer = if state.fails { None } else { Some(call(&mut state)) };
            answer.filter(|_| !state.loses_answers).ok_or_else(|| BackendError::new("the test wants an error"))
        };
        self.stay_pending().await;
        result
    }

    async fn stay_pending(&self) {
        let mut left = self.pending.load(Ordering::Relaxed);
        poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
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

    fn answer(&self, failure: Flaw) -> BackendFuture<'_, ()> {
        Box::pin(async move {
            self.store.call(&AtomicUsize::new(0), |_| ()).await?;
            if self.flaw == failure { Err(BackendError::new("the flaw of the store")) } else { Ok(()) }
        })
    }

    /// Returns when the lock's lease ends. `None` if the lock is free.
    fn holder(&self, state: &StoreState, lock: &LockName) -> Option<Option<Instant>> {
        let held = state.held.get(&self.key(lock))?;
        let is_held = held.expires_at.is_none_or(|at| at > Instant::now()) && self.flaw != Flaw::GivesTheLockToAll;
        is_held.then_some(held.expires_at)
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
        self.answer(Flaw::FailsToConnect)
    }

    fn check(&self) -> BackendFuture<'_, ()> {
        self.answer(Flaw::FailsItsChecks)
    }

    fn lease(&self) -> Option<Duration> {
        self.lease
    }

    fn try_acquire<'a>(&'a self, lock: &'a LockName, owner: Owner, tokens: u32) -> BackendFuture<'a, Attempt> {
        let checks_first = self.flaw == Flaw::ChecksBeforeItTakes;
        let held = move |state: &mut StoreState| {
            let expires_at = self.holder(state, lock)?;
            Some(Attempt::Held { expires_in: expires_at.map(|at| at - Instant::now()) })
        };
        let acquire = move |state: &mut StoreState| {
            if let Some(held) = held(state).filter(|_| !checks_first) {
                return held;
            }
            let counter = if self.flaw == Flaw::CountsTokensPerKey { lock.key() } else { None };
            let reserved = state.tokens.entry(format!("{}/{counter:?}", lock.guard())).or_default();
            let fence = *reserved + 1;
            if self.flaw != Flaw::RepeatsTokens {
                *reserved += u64::from(tokens);
            }
            state.held.insert(self.key(lock), Held { owner, fence, expires_at: self.expiry() });
            Attempt::Acquired { fence }
        };
        Box::pin(async move {
            if checks_first {
                if let Some(held) = self.store.call(&AtomicUsize::new(0), held).await? {
                    return Ok(held);
                }
                sleep(Duration::from_millis(1)).await;
            }
            let panics = self.flaw == Flaw::PanicsInErrors;
            let answer = self.store.call(&self.store.attempts, acquire).await;
            answer.map_err(|error| if panics { error.with_source(PanickingError) } else { error })
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
                if let Some(held) = held.filter(|_| self.flaw != Flaw::OnlyClaimsToRenew) {
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
            let has_no_key = lease.lock.key().is_none();
            let is_of = |held: &Held| match self.flaw {
                Flaw::ReleasesForAll => true,
                Flaw::KeepsKeys => has_no_key && held.is_of(lease),
                Flaw::IgnoresTokensOfReleases => held.owner == lease.owner,
                Flaw::NeedsTokens => held.owner == lease.owner && lease.fence == Some(held.fence),
                _ => held.is_of(lease),
            };
            if !state.held.get(&key).is_some_and(is_of) {
                return Released::default();
            }
            state.held.remove(&key);
            if self.flaw != Flaw::ReportsNoRelease {
                self.store.released.notify_waiters();
            }
            let waiting = match self.flaw {
                Flaw::KnowsNoWaiters => 0,
                Flaw::ImaginesWaiters => 1,
                _ => state.waiting.get(&key).copied().unwrap_or_default(),
            };
            Released { waiting }
        };
        Box::pin(self.store.call(&self.store.releases, release))
    }

    fn released<'a>(&'a self, lock: &'a LockName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            assert_ne!(self.flaw, Flaw::PanicsInReleased, "the test wants a panic");
            let mut released = pin!(self.store.released.notified());
            released.as_mut().enable();
            let _waiting = Waiting::new(self, self.key(lock));
            if self.flaw != Flaw::ReportsAllTheTime {
                released.await;
            }
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
