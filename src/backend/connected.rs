//! [`Connected`], a domain and the store that it is connected to.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::domain::DomainOptions;
use super::error::BackendError;
use super::keeper::Keeper;
use super::lock_backend::{Attempt, LeaseId, LockBackend, LockName, Owner, Released};
use super::turn::Parked;
use crate::debug::impl_debug;
use crate::panic::catch;
use crate::sync::{Mutex, lock};

/// A domain and the store that it is connected to.
pub(super) struct Connected {
    pub(super) options: DomainOptions,
    pub(super) backend: Arc<dyn LockBackend>,
    pub(super) keeper: Keeper,
    /// What the last holder of a lock has left for the next caller in this process.
    pub(super) parked: Mutex<HashMap<LockName, Parked>>,
    /// The owners of this process have the same upper half.
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
    /// The store has answered at once.
    Answered(Result<T, BackendError>),
    Ended,
}

type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send>>;

pub(super) type AttemptCall = Call<(Attempt, LeaseId, Instant)>;
pub(super) type ReleaseCall = Call<Released>;

impl Connected {
    pub(super) fn new(options: DomainOptions, backend: Arc<dyn LockBackend>, keeper: Keeper) -> Arc<Self> {
        let (process, next_owner, parked) = (random_u64(), AtomicU64::new(0), Mutex::new(HashMap::new()));
        Arc::new(Self { options, backend, keeper, parked, process, next_owner })
    }

    fn new_owner(&self) -> Owner {
        Owner(u128::from(self.process) << 64 | u128::from(self.next_owner.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes the lock if no other process has it.
    pub(super) fn try_acquire(self: &Arc<Self>, lock: LockName) -> AttemptCall {
        let (backend, owner, tokens) = (Arc::clone(&self.backend), self.new_owner(), self.options.cohort_turns);
        let this = Arc::clone(self);
        let future = async move {
            // The lease begins when the store receives the request, which is not earlier than this.
            let began = Instant::now();
            match backend.try_acquire(&lock, owner, tokens).await {
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
        let backend = Arc::clone(&self.backend);
        Call::new(self, Box::pin(async move { backend.release(&lease).await }), |_, _| {})
    }

    /// Takes what the last holder in this process has left for the next one.
    pub(super) fn unpark(&self, name: &LockName) -> Option<Parked> {
        lock(&self.parked).remove(name)
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

    /// Begins the call. Without further polls, it completes in a task of its own.
    pub(super) fn begin(&mut self) {
        if let Poll::Ready(result) = self.poll_store(&mut Context::from_waker(Waker::noop())) {
            self.state = CallState::Answered(result);
        }
    }

    /// Completes the call without its caller.
    pub(super) fn let_go(mut self) {
        // The panic of a store ends this call and nothing else.
        let _ = catch(|| self.begin());
    }

    fn poll_store(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, BackendError>> {
        let mut future = match mem::replace(&mut self.state, CallState::Ended) {
            CallState::New(future) | CallState::Begun(future) => future,
            CallState::Answered(result) => return Poll::Ready(result),
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

/// Returns a number that is random, but not secret.
pub(super) fn random_u64() -> u64 {
    // Each `RandomState` has keys of its own, and the first one of a thread has random keys of the system.
    RandomState::new().hash_one(std::process::id())
}

impl_debug!(Connected |this| { backend: this.backend, parked: lock(&this.parked).len(), .. });
