//! [`Connected`], a domain and the store that it is connected to.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::clock;
use super::domain::DomainOptions;
use super::error::BackendError;
use super::keeper::Keeper;
use super::lock_backend::{Attempt, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
use super::parked_map::ParkedMap;
use super::turn::Parked;
use crate::debug::impl_debug;
use crate::panic::{Panic, catch_work, discard};
use crate::random;

/// The longest time that a store may take to answer.
const MAX_CALL: Duration = Duration::from_secs(5);

/// How long a process remembers that others waited for a lock that it has released.
const REMEMBERED: Duration = Duration::from_millis(100);

/// A domain and the store that it is connected to.
pub(super) struct Connected {
    pub(super) options: DomainOptions,
    pub(super) backend: Arc<dyn LockBackend>,
    pub(super) keeper: Keeper,
    pub(super) parked: ParkedMap<Parked>,
    /// The upper half of every owner in this process.
    process: u64,
    next_owner: AtomicU64,
}

/// A call to the store that is completed even if its caller is dropped.
pub(super) struct Call<T: Send + 'static> {
    connected: Arc<Connected>,
    state: CallState<T>,
    /// Completes the call if its caller is dropped. `None` if nothing depends on the result.
    abandoned: Option<Abandoned<T>>,
}

type Abandoned<T> = Box<dyn FnOnce(StoreFuture<T>) + Send>;

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
        let (process, next_owner, parked) = (random::bits(), AtomicU64::new(0), ParkedMap::new());
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
        let (undoing, name) = (Arc::clone(self), lock.clone());
        let abandoned = move |attempt| undoing.undo(name, attempt);
        let future = async move {
            // The lease begins when the store receives the request, which is never earlier than now.
            let began = clock::now();
            match limited(limit, || backend.try_acquire(&lock, owner, tokens)).await {
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
        Call::new(self, Box::pin(future), Some(Box::new(abandoned)))
    }

    /// Completes an attempt whose caller was dropped, and releases the lock. The next caller in this process waits for
    /// the release.
    fn undo(self: &Arc<Self>, name: LockName, attempt: StoreFuture<(Attempt, LeaseId, Instant)>) {
        let released = self.park_release(name);
        let this = Arc::clone(self);
        self.keeper.spawn(async move {
            released(match attempt.await {
                Ok((Attempt::Acquired { .. }, lease, _)) => this.release(lease).await.unwrap_or_default(),
                _ => Released::default(),
            });
        });
    }

    pub(super) fn release(self: &Arc<Self>, lease: LeaseId) -> ReleaseCall {
        let (backend, limit) = (Arc::clone(&self.backend), self.call_limit());
        let future = async move { limited(limit, || backend.release(&lease)).await };
        Call::new(self, Box::pin(future), None)
    }

    /// Returns how long the store may take to answer.
    fn call_limit(&self) -> Duration {
        call_limit(self.backend.lease())
    }

    /// Makes the next caller in this process wait for the result of a release. The returned function takes this result.
    pub(super) fn park_release(self: &Arc<Self>, name: LockName) -> impl FnOnce(Released) + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        // If the domain is disconnected, no caller waits.
        discard(self.parked.park(name.clone(), Parked::Release(receiver)));
        let this = Arc::clone(self);
        move |released: Released| {
            // The caller that waits for the result may have left.
            let _ = sender.send(released);
            this.end_parked_release(name);
        }
    }

    /// Makes the next caller in this process wait for a release that another caller has waited for.
    pub(super) fn park_release_again(self: &Arc<Self>, name: LockName, receiver: oneshot::Receiver<Released>) {
        discard(self.parked.park(name.clone(), Parked::Release(receiver)));
        // The result may have arrived in the meantime.
        self.end_parked_release(name);
    }

    /// Removes a parked release whose result is known, so that nothing stays parked if no other caller arrives.
    fn end_parked_release(self: &Arc<Self>, name: LockName) {
        let is_known = |left: &Parked| matches!(left, Parked::Release(receiver) if !receiver.is_empty());
        if let Some(Parked::Release(mut receiver)) = self.parked.unpark_if(&name, is_known)
            && let Ok(released) = receiver.try_recv()
        {
            self.step_back_from(name, released.waiting);
        }
    }

    /// Takes what the last holder in this process has left for the next caller.
    pub(super) fn unpark(&self, name: &LockName) -> Option<Parked> {
        self.parked.unpark_if(name, |_| true)
    }

    /// Remembers how many other processes wait for a lock that this process has just released, so that the next caller
    /// lets them go first.
    pub(super) fn step_back_from(self: &Arc<Self>, name: LockName, waiting: usize) {
        if waiting == 0 {
            return;
        }
        let until = Instant::now() + REMEMBERED;
        // A value that is already parked is newer than the release, so the count is not needed.
        if !self.parked.park_first(name.clone(), Parked::StepBack { waiting, until }) {
            return;
        }
        let this = Arc::downgrade(self);
        self.keeper.spawn(async move {
            sleep_until(until).await;
            let is_this = |left: &Parked| matches!(left, Parked::StepBack { until: at, .. } if *at == until);
            this.upgrade().map(|this| this.parked.unpark_if(&name, is_this));
        });
    }
}

impl<T: Send + 'static> Call<T> {
    fn new(connected: &Arc<Connected>, future: StoreFuture<T>, abandoned: Option<Abandoned<T>>) -> Self {
        Self { connected: Arc::clone(connected), state: CallState::New(future), abandoned }
    }

    /// Begins the call. Returns the result if the store answers at once.
    pub(super) fn begin(&mut self) -> Option<Result<T, BackendError>> {
        match self.poll_store(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Begins the call, which then completes in the background.
    pub(super) fn let_go(mut self) {
        let _ = self.begin();
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
            match self.abandoned.take() {
                Some(abandoned) => abandoned(future),
                None => {
                    // The clone keeps the keeper's thread running until the call has completed.
                    let connected = Arc::clone(&self.connected);
                    self.connected.keeper.spawn(async move {
                        drop(future.await);
                        drop(connected);
                    });
                }
            }
        }
    }
}

/// Returns how long a store may take to answer: a lease must not be lost because a single answer does not arrive.
pub(super) fn call_limit(lease: Option<Duration>) -> Duration {
    lease.map_or(MAX_CALL, |lease| (lease / 3).min(MAX_CALL))
}

/// Limits how long the store may take to answer.
pub(super) async fn limited<'a, T>(
    limit: Duration,
    call: impl FnOnce() -> BackendFuture<'a, T>,
) -> Result<T, BackendError> {
    let late = |_| Err(BackendError::new(format!("the store did not answer within {limit:?}")));
    timeout(limit, Contained::new(call)?).await.unwrap_or_else(late).flatten()
}

/// A future of the store, which returns a panic of the store as an error.
pub(super) struct Contained<'a, T>(Option<Pin<Box<dyn Future<Output = T> + Send + 'a>>>);

impl<'a, T> Contained<'a, T> {
    pub(super) fn new(
        call: impl FnOnce() -> Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    ) -> Result<Self, BackendError> {
        catch_work(call).map(|future| Self(Some(future))).map_err(|panic| panicked(&panic))
    }
}

impl<T> Future for Contained<'_, T> {
    type Output = Result<T, BackendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.0.as_mut().expect("the future is there until this value is dropped");
        match catch_work(|| future.as_mut().poll(cx)) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panicked(&panic))),
        }
    }
}

impl<T> Drop for Contained<'_, T> {
    fn drop(&mut self) {
        discard(self.0.take());
    }
}

fn panicked(panic: &Panic) -> BackendError {
    BackendError::new(format!("the backend panicked: {panic}"))
}

impl_debug!(Connected |this| {
    backend: this.backend, parked: this.parked.len(), ..
});
