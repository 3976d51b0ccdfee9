//! [`Connected`], a domain and the store that it is connected to.

use std::collections::HashMap;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::clock;
use super::domain::DomainOptions;
use super::error::BackendError;
use super::keeper::Keeper;
use super::lock_backend::{Attempt, LeaseId, LockBackend, LockName, Owner, Released};
use super::turn::Parked;
use crate::debug::impl_debug;
use crate::panic::catch;
use crate::random;
use crate::sync::{Mutex, lock};

/// The longest time that a store may take to answer.
const MAX_CALL: Duration = Duration::from_secs(5);

/// How long a process remembers that others waited for a lock that it has released.
const REMEMBERED: Duration = Duration::from_millis(100);

/// A domain and the store that it is connected to.
pub(super) struct Connected {
    pub(super) options: DomainOptions,
    pub(super) backend: Arc<dyn LockBackend>,
    pub(super) keeper: Keeper,
    /// What the last holder of a lock has left for the next caller in this process. `None` once the domain is
    /// disconnected.
    parked: Mutex<Option<HashMap<LockName, Parked>>>,
    /// The upper half of every owner in this process.
    process: u64,
    next_owner: AtomicU64,
}

/// A call to the store that is completed even if its caller is dropped.
pub(super) struct Call<T: Send + 'static> {
    connected: Arc<Connected>,
    state: CallState<T>,
    /// Called with the result if the caller was dropped.
    abandoned: fn(Arc<Connected>, Result<T, BackendError>),
}

enum CallState<T> {
    New(StoreFuture<T>),
    Begun(StoreFuture<T>),
    Ended,
}

type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send>>;

pub(super) type AttemptCall = Call<(Attempt, LeaseId, Instant)>;
pub(super) type ReleaseCall = Call<Released>;

impl Connected {
    pub(super) fn new(options: DomainOptions, backend: Arc<dyn LockBackend>, keeper: Keeper) -> Arc<Self> {
        let (process, next_owner, parked) = (random::bits(), AtomicU64::new(0), Mutex::new(Some(HashMap::new())));
        Arc::new(Self { options, backend, keeper, parked, process, next_owner })
    }

    fn new_owner(&self) -> Owner {
        Owner(u128::from(self.process) << 64 | u128::from(self.next_owner.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes the lock if no other process has it.
    pub(super) fn try_acquire(self: &Arc<Self>, lock: LockName) -> AttemptCall {
        let (backend, owner, tokens) = (Arc::clone(&self.backend), self.new_owner(), self.options.cohort_turns);
        let this = Arc::clone(self);
        let limit = self.call_limit();
        let future = async move {
            // The lease begins when the store receives the request, which is never earlier than now.
            let began = clock::now();
            match limited(limit, backend.try_acquire(&lock, owner, tokens)).await {
                Ok(attempt) => {
                    let fence = if let Attempt::Acquired { fence } = attempt { Some(fence) } else { None };
                    Ok((attempt, LeaseId::new(lock, owner, fence), began))
                }
                Err(error) => {
                    // The store may have given the lock to this owner before the connection failed.
                    this.release(LeaseId::new(lock, owner, None)).let_go();
                    Err(error)
                }
            }
        };
        let abandoned = |connected: Arc<Self>, result: Result<(Attempt, LeaseId, Instant), _>| {
            if let Ok((Attempt::Acquired { .. }, lease, _)) = result {
                connected.release(lease).let_go();
            }
        };
        Call::new(self, Box::pin(future), abandoned)
    }

    pub(super) fn release(self: &Arc<Self>, lease: LeaseId) -> ReleaseCall {
        let (backend, limit) = (Arc::clone(&self.backend), self.call_limit());
        let future = async move { limited(limit, backend.release(&lease)).await };
        Call::new(self, Box::pin(future), |_, _| {})
    }

    /// Returns how long the store may take to answer.
    fn call_limit(&self) -> Duration {
        call_limit(self.backend.lease())
    }

    /// Leaves something for the next caller in this process. Returns what the caller drops, without the lock: what was
    /// left before, or `parked` itself if the domain is disconnected.
    pub(super) fn park(&self, name: LockName, parked: Parked) -> Option<Parked> {
        // What was there is outdated: one caller of a process has the turn, and leaves the last word.
        match &mut *lock(&self.parked) {
            Some(all) => all.insert(name, parked),
            None => Some(parked),
        }
    }

    /// Takes what the last holder in this process has left for the next one.
    pub(super) fn unpark(&self, name: &LockName) -> Option<Parked> {
        self.unpark_if(name, |_| true)
    }

    /// Takes what was left if `is_wanted` returns `true`.
    pub(super) fn unpark_if(&self, name: &LockName, is_wanted: impl FnOnce(&Parked) -> bool) -> Option<Parked> {
        let mut all = lock(&self.parked);
        let all = all.as_mut()?;
        if all.get(name).is_some_and(is_wanted) { all.remove(name) } else { None }
    }

    /// Takes everything that was left for callers of a guard.
    pub(super) fn unpark_all(&self, guard: &str) -> Vec<Parked> {
        let mut all = lock(&self.parked);
        all.iter_mut().flat_map(|all| all.extract_if(|name, _| name.guard() == guard)).map(|(_, left)| left).collect()
    }

    /// Takes everything that was left. Nothing more can be left afterwards.
    pub(super) fn disconnect(&self) -> Option<HashMap<LockName, Parked>> {
        lock(&self.parked).take()
    }

    pub(super) fn is_disconnected(&self) -> bool {
        lock(&self.parked).is_none()
    }

    /// Remembers that others wait for a lock that this process has just released, so that its next caller lets them go
    /// first.
    pub(super) fn step_back_from(self: &Arc<Self>, name: LockName, waiting: usize) {
        let until = Instant::now() + REMEMBERED;
        match &mut *lock(&self.parked) {
            // What is parked by now was left after the release, so there is nothing to remember.
            Some(all) if !all.contains_key(&name) => all.insert(name.clone(), Parked::StepBack { waiting, until }),
            _ => return,
        };
        let this = Arc::downgrade(self);
        self.keeper.spawn(async move {
            sleep_until(until).await;
            let is_this = |left: &Parked| matches!(left, Parked::StepBack { until: at, .. } if *at == until);
            this.upgrade().map(|this| this.unpark_if(&name, is_this));
        });
    }
}

impl<T: Send + 'static> Call<T> {
    fn new(
        connected: &Arc<Connected>,
        future: StoreFuture<T>,
        abandoned: fn(Arc<Connected>, Result<T, BackendError>),
    ) -> Self {
        Self { connected: Arc::clone(connected), state: CallState::New(future), abandoned }
    }

    /// Begins the call. Returns the result if the store answers at once.
    pub(super) fn begin(&mut self) -> Option<Result<T, BackendError>> {
        match self.poll_store(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Completes the call without its caller.
    pub(super) fn let_go(mut self) {
        // A panic of the store ends this call and nothing else.
        let _ = catch(|| self.begin());
    }

    fn poll_store(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, BackendError>> {
        let mut future = match mem::replace(&mut self.state, CallState::Ended) {
            CallState::New(future) | CallState::Begun(future) => future,
            CallState::Ended => panic!("a call is not polled after it completed"),
        };
        let entered = self.connected.keeper.handle().enter();
        let poll = future.as_mut().poll(cx);
        drop(entered);
        if poll.is_pending() {
            self.state = CallState::Begun(future);
        }
        poll
    }
}

impl<T: Send + 'static> Future for Call<T> {
    type Output = Result<T, BackendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_store(cx)
    }
}

// Nothing in the call is structurally pinned: the future is boxed.
impl<T: Send + 'static> Unpin for Call<T> {}

impl<T: Send + 'static> Drop for Call<T> {
    fn drop(&mut self) {
        if let CallState::Begun(future) = mem::replace(&mut self.state, CallState::Ended) {
            let (connected, abandoned) = (Arc::clone(&self.connected), self.abandoned);
            let rest = async move { abandoned(connected, future.await) };
            self.connected.keeper.spawn(rest);
        }
    }
}

/// Returns how long a store may take to answer: a lease must not be lost because a single answer does not arrive.
pub(super) fn call_limit(lease: Option<Duration>) -> Duration {
    lease.map_or(MAX_CALL, |lease| (lease / 3).min(MAX_CALL))
}

/// Limits how long the store may take to answer.
pub(super) async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let late = |_| Err(BackendError::new(format!("the store did not answer within {limit:?}")));
    timeout(limit, call).await.unwrap_or_else(late)
}

impl_debug!(Connected |this| { backend: this.backend, is_disconnected: this.is_disconnected(), .. });
