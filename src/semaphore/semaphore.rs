//! [`Semaphore`], whose permits are acquired and released with one compare-exchange each while no caller is waiting.
//!
//! A caller that finds no permit available enters a queue that a mutex protects. The fast path never takes that mutex.
//! A permit that is released while a caller is waiting is granted to the next waiter directly. It never becomes
//! available in between, so no caller can barge in. [`WaitQueue`] documents the decisions that are made with the mutex
//! held, and their invariants. This file contains the operations on permits and those that permits and tokens share;
//! [`token_semaphore`](super::token_semaphore) has the operations on tokens.

use std::task::Waker;

use tokio::time::Instant;

use super::atomic_state::AtomicState;
use super::outcome::{CancelOutcome, EnqueueOutcome, ReleaseOutcome, SemaphoreRefusal, SemaphoreSnapshot, WaitOutcome};
use super::permit_state::PermitState;
use super::state::SemaphoreState;
use super::wait_queue::{SemaphoreConfig, StateCell, WaitCounters, WaitQueue, WaiterPoll};
use super::waiters::{WaiterId, WaiterList, WaiterSlots};
use crate::sync::{Mutex, const_unless_loom, lock};
use crate::wake::{wake, wake_all};

#[derive(Debug)]
pub(crate) struct Semaphore<S: SemaphoreState = PermitState> {
    pub(super) state: AtomicState<S>,
    config: SemaphoreConfig<S::Permits>,
    queue: Mutex<Waiters<S::Weight>>,
    pub(crate) counters: WaitCounters,
}

#[derive(Debug)]
struct Waiters<T> {
    list: WaiterList,
    slots: WaiterSlots<T>,
}

impl Semaphore {
    const_unless_loom! {
        pub(crate) fn new(config: SemaphoreConfig) -> Self {
            Self::with_state(AtomicState::new(), config)
        }
    }

    pub(crate) fn permits(&self) -> usize {
        self.config.permits
    }

    /// Returns `false` if callers don't wait, but are refused.
    pub(crate) fn has_queue(&self) -> bool {
        self.config.bound > 0
    }

    /// Releases a permit, or grants it to the next waiter if there is one.
    #[inline]
    pub(crate) fn release(&self, granted_at: impl Fn() -> Option<Instant>) -> ReleaseOutcome {
        if self.state.try_release(()) { ReleaseOutcome::Available } else { self.release_contended(granted_at) }
    }

    #[cold]
    #[inline(never)]
    fn release_contended(&self, granted_at: impl Fn() -> Option<Instant>) -> ReleaseOutcome {
        match self.with_queue(|queue| queue.release((), granted_at)) {
            Some(waker) => {
                wake_all([waker]);
                ReleaseOutcome::PassedOn
            }
            None if self.is_drained() => ReleaseOutcome::Drained,
            None => ReleaseOutcome::Available,
        }
    }

    /// Revokes every untaken grant that was made at or before `limit`, and grants its permit to the next waiter.
    ///
    /// Returns the number of revoked grants and the time of the oldest remaining grant.
    pub(crate) fn expire_grants(&self, limit: Instant, now: Instant) -> (usize, Option<Instant>) {
        let expired = self.with_queue(|queue| queue.expire_grants(limit, now));
        wake_all(expired.wakers);
        (expired.count, expired.oldest)
    }

    /// Returns `true` if the semaphore is closed, and no permit is held except those that were forgotten.
    pub(crate) fn is_drained(&self) -> bool {
        self.state.is_drained(self.counters.forgotten.value())
    }

    /// Records that the holder of a permit never releases it. Returns `true` if it was the last permit of a closed
    /// semaphore.
    pub(crate) fn forget(&self) -> bool {
        // The mutex orders this change with a close, and with a release after the close. The last of the three finds
        // the semaphore drained.
        self.with_queue(|queue| queue.counters.forgotten.add_exclusive(1));
        self.is_drained()
    }

    pub(crate) fn snapshot(&self) -> SemaphoreSnapshot {
        self.state.snapshot()
    }
}

impl<S: SemaphoreState> Semaphore<S> {
    const_unless_loom! {
        pub(super) fn with_state(state: AtomicState<S>, config: SemaphoreConfig<S::Permits>) -> Self {
            let queue = Mutex::new(Waiters { list: WaiterList::new(), slots: WaiterSlots::new() });
            Self { state, config, queue, counters: WaitCounters::new() }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.load().is_closed()
    }

    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.state.load().waiting()
    }

    /// Acquires `weight` if it is available and no caller is waiting.
    #[inline]
    pub(crate) fn try_acquire(&self, weight: S::Weight) -> Result<(), SemaphoreRefusal> {
        self.state.try_acquire(self.config.permits, weight)
    }

    /// Acquires `weight` if it has become available in the meantime, or else adds the caller to the queue.
    pub(crate) fn enqueue(&self, weight: S::Weight, waker: &Waker) -> EnqueueOutcome {
        // Refusing takes no mutex: the bound was reached at the moment of this load.
        let seen = self.state.load();
        if seen.is_closed() {
            return EnqueueOutcome::Refused(SemaphoreRefusal::Closed);
        }
        let is_full = !seen.admits(self.config.permits, weight) && seen.waiting() >= self.config.bound;
        if is_full && !self.config.evicts() {
            return EnqueueOutcome::Refused(self.config.queue_full());
        }
        let mut waker = Some(waker.clone());
        let (outcome, evicted) = self.with_queue(|queue| queue.enqueue(weight, &mut waker));
        // The panic of this waker must not lose the id of the caller that was just queued.
        wake(evicted);
        outcome
    }

    /// Returns the outcome of the wait, or `None` while the caller is still waiting. An outcome also removes the waiter
    /// and clears its id.
    pub(crate) fn poll(&self, waiter: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome> {
        let mut spare = None;
        loop {
            match self.with_queue(|queue| queue.poll(waiter, waker, &mut spare)) {
                WaiterPoll::Pending => return None,
                WaiterPoll::NeedsWaker => spare = Some(waker.clone()),
                WaiterPoll::Ready(outcome, _) => return outcome,
            }
        }
    }

    /// Polls the waiter for the last time and removes it. Returns `None` if the waiter was still waiting.
    pub(crate) fn poll_final(&self, waiter: WaiterId) -> Option<WaitOutcome> {
        let removed = self.with_queue(|queue| queue.poll_final(waiter));
        wake_all(removed.wakers);
        removed.outcome
    }

    /// Removes the waiter from the queue and releases its grant, if it has one.
    pub(crate) fn cancel(&self, waiter: WaiterId, granted_at: impl Fn() -> Option<Instant>) -> CancelOutcome {
        let removed = self.with_queue(|queue| queue.cancel(waiter, granted_at));
        wake_all(removed.wakers);
        removed.outcome
    }

    /// Refuses waiting and new callers.
    pub(crate) fn close(&self) {
        wake_all(self.with_queue(|queue| queue.close()));
    }

    /// Runs `decide` with the mutex held. The caller drops the result after the mutex is unlocked.
    pub(super) fn with_queue<R>(&self, decide: impl FnOnce(&mut WaitQueue<'_, AtomicState<S>>) -> R) -> R {
        let mut queue = lock(&self.queue);
        let Waiters { list, slots } = &mut *queue;
        let (config, state, counters) = (&self.config, &self.state, &self.counters);
        decide(&mut WaitQueue { config, state, waiters: list, slots, counters })
    }
}
