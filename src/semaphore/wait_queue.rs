//! [`WaitQueue`], the algorithm: which callers acquire, wait, are granted permits, and leave the queue. It decides
//! while the semaphore's mutex is held.
//!
//! Two types use it. [`Semaphore`](super::Semaphore) keeps its state in an atomic, so that it is acquired and released
//! without the mutex while it is uncontended. The entries of a keyed guard keep theirs behind the mutex of their shard.
//! Only the [`SemaphoreState`] knows what callers acquire and how much exists, permits or tokens.
//!
//! # Invariants
//!
//! 1. `state.waiting` changes only under the mutex, where it equals the number of waiters in the list.
//! 2. While `state.waiting > 0`, there is no room for the next waiter, and the state changes only under the mutex: new
//!    callers wait, and a release grants. So under the mutex a load returns the latest state, and a store replaces it.
//! 3. Every change that makes room, or puts another waiter in front, grants from the front as far as there is room: a
//!    release, a total that grows, and a waiter that leaves, which may have been the one that there was no room for.
//! 4. What is granted to a waiter counts as held. The waiter takes it, or releases it when it is cancelled.
//! 5. Wakers are cloned, dropped and woken outside the mutex: a waker is user code.

use std::task::Waker;

use tokio::time::Instant;

use super::order::Order;
use super::outcome::{CancelOutcome, EnqueueOutcome, SemaphoreRefusal, WaitOutcome};
use super::state::{SemaphoreState, WakerSet};
use super::token_state::TokenState;
use super::waiters::{RemovedSlot, WaiterId, WaiterList, WaiterSlots, WaiterState};
use crate::counter::Counter;
use crate::sync::const_unless_loom;

/// What a semaphore was configured with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SemaphoreConfig<P = usize> {
    /// From 1 to [`MAX_PERMITS`](super::MAX_PERMITS), or `()` if the state contains the number.
    pub(crate) permits: P,
    /// The maximum number of waiting callers, from 0 to what the state can count.
    pub(crate) bound: usize,
    pub(crate) order: Order,
}

/// Counters that change under the mutex.
#[derive(Debug)]
pub(crate) struct WaitCounters {
    /// Callers that had to wait.
    pub(crate) queued: Counter,
    /// Callers that were cancelled while they waited.
    pub(crate) cancelled: Counter,
}

/// The memory that holds a semaphore's state.
pub(crate) trait StateCell {
    type State: SemaphoreState;

    fn load(&self) -> Self::State;

    /// Replaces the state if it still equals `seen`. What the last holder did is visible afterwards.
    fn compare_exchange(&self, seen: Self::State, next: Self::State) -> Result<(), Self::State>;

    /// Replaces the state. Must be called with the mutex held and while a caller is waiting (invariant 2).
    fn store(&self, next: Self::State);

    /// Releases `weight`. Must be called with the mutex held and while no caller is waiting.
    fn release(&self, weight: WeightOf<Self>);

    fn close(&self);

    /// Counts the grant that replaced the state `seen`.
    fn count_grant(&self, seen: Self::State);
}

pub(crate) type WeightOf<C> = <<C as StateCell>::State as SemaphoreState>::Weight;
pub(crate) type WakersOf<C> = <<C as StateCell>::State as SemaphoreState>::Wakers;
type PermitsOf<C> = <<C as StateCell>::State as SemaphoreState>::Permits;

/// A semaphore whose mutex is held.
pub(crate) struct WaitQueue<'a, C: StateCell> {
    pub(crate) config: &'a SemaphoreConfig<PermitsOf<C>>,
    pub(crate) state: &'a C,
    pub(crate) waiters: &'a mut WaiterList,
    pub(crate) slots: &'a mut WaiterSlots<WeightOf<C>>,
    pub(crate) counters: &'a WaitCounters,
}

/// The result of polling a waiter. Everything in it must be dropped after the mutex is unlocked.
#[derive(Debug)]
#[expect(dead_code, reason = "some values are moved out of the mutex only to be dropped there")]
pub(crate) enum WaiterPoll<T = ()> {
    /// The wait continues, and the slot has the caller's waker. Contains the waker that it replaced, if any.
    Pending(Option<Waker>),
    /// The wait continues, and the slot has another waker: poll again with a clone of the caller's.
    NeedsWaker,
    /// The wait is over.
    Ready(Option<WaitOutcome>, Option<RemovedSlot<T>>),
}

/// Grants that were revoked.
#[derive(Debug)]
pub(crate) struct ExpiredGrants {
    pub(crate) count: usize,
    /// When the oldest remaining grant was made.
    pub(crate) oldest: Option<Instant>,
    /// The wakers of the waiters that were granted the permits instead.
    pub(crate) wakers: Vec<Waker>,
}

/// A waiter that was removed. `R` is a [`CancelOutcome`], or the result of the final poll.
#[derive(Debug)]
pub(crate) struct RemovedWaiter<R, W, T> {
    pub(crate) outcome: R,
    /// The wakers of the waiters that were granted permits as a consequence.
    pub(crate) wakers: W,
    _deferred: RemovedSlot<T>,
}

impl<P> SemaphoreConfig<P> {
    /// Returns the refusal of a caller that finds the queue full or absent.
    pub(crate) fn queue_full(&self) -> SemaphoreRefusal {
        if self.bound == 0 { SemaphoreRefusal::Busy } else { SemaphoreRefusal::QueueFull }
    }
}

impl WaitCounters {
    const_unless_loom! {
        pub(crate) fn new() -> Self {
            Self { queued: Counter::new(), cancelled: Counter::new() }
        }
    }
}

impl<C: StateCell> WaitQueue<'_, C> {
    /// Adds the caller to the queue, unless `weight` was released in the meantime: then the caller acquires it.
    ///
    /// Takes the waker only if the caller is queued, so that the caller of this method drops it otherwise, after the
    /// mutex is unlocked.
    pub(crate) fn enqueue(&mut self, weight: WeightOf<C>, waker: &mut Option<Waker>) -> EnqueueOutcome {
        let mut seen = self.state.load();
        loop {
            if seen.is_closed() {
                return EnqueueOutcome::Refused(SemaphoreRefusal::Closed);
            } else if seen.admits(self.config.permits, weight) {
                match self.state.compare_exchange(seen, seen.acquired(weight)) {
                    Ok(()) => {
                        self.state.count_grant(seen);
                        return EnqueueOutcome::Acquired;
                    }
                    Err(now) => seen = now,
                }
            } else if seen.waiting() >= self.config.bound {
                return EnqueueOutcome::Refused(self.config.queue_full());
            } else if seen.waiting() > 0 {
                self.state.store(seen.enqueued());
                break;
            } else {
                // The first waiter: until this exchange, holders can still release without the mutex.
                match self.state.compare_exchange(seen, seen.enqueued()) {
                    Ok(()) => break,
                    Err(now) => seen = now,
                }
            }
        }
        self.counters.queued.add_exclusive(1);
        let waker = waker.take().expect("a caller that enqueues passes a waker");
        EnqueueOutcome::Queued(self.waiters.push(self.slots, waker, weight))
    }

    /// Returns how the wait ended, or that it continues. An outcome removes the waiter and clears its id.
    pub(crate) fn poll(
        &mut self,
        waiter: &mut Option<WaiterId>,
        waker: &Waker,
        clone: &mut Option<Waker>,
    ) -> WaiterPoll<WeightOf<C>> {
        let Some(id) = waiter.as_ref() else { return WaiterPoll::Ready(None, None) };
        match self.slots.state(id) {
            WaiterState::Waiting(current) if current.will_wake(waker) => WaiterPoll::Pending(None),
            WaiterState::Waiting(current) => match clone.take() {
                Some(clone) => WaiterPoll::Pending(Some(std::mem::replace(current, clone))),
                None => WaiterPoll::NeedsWaker,
            },
            state => {
                let outcome = WaitOutcome::of(state);
                WaiterPoll::Ready(outcome, waiter.take().map(|waiter| self.waiters.remove(self.slots, waiter)))
            }
        }
    }

    /// Polls for the last time and removes the waiter. The outcome is `None` if it was still waiting.
    pub(crate) fn poll_final(
        &mut self,
        waiter: WaiterId,
    ) -> RemovedWaiter<Option<WaitOutcome>, WakersOf<C>, WeightOf<C>> {
        let slot = self.waiters.remove(self.slots, waiter);
        let wakers = match slot.state {
            WaiterState::Waiting(_) => self.dequeue(|| None),
            _ => WakersOf::<C>::default(),
        };
        RemovedWaiter { outcome: WaitOutcome::of(&slot.state), wakers, _deferred: slot }
    }

    /// Removes the waiter from the queue. Releases what was granted to it.
    pub(crate) fn cancel(
        &mut self,
        waiter: WaiterId,
        granted_at: impl Fn() -> Option<Instant>,
    ) -> RemovedWaiter<CancelOutcome, WakersOf<C>, WeightOf<C>> {
        let slot = self.waiters.remove(self.slots, waiter);
        let (outcome, wakers) = match slot.state {
            WaiterState::Waiting(_) => {
                self.counters.cancelled.add_exclusive(1);
                (CancelOutcome::Dequeued, self.dequeue(granted_at))
            }
            WaiterState::Granted(_) => {
                self.counters.cancelled.add_exclusive(1);
                (CancelOutcome::Released, self.release(slot.weight, granted_at))
            }
            _ => (CancelOutcome::AlreadyEnded, WakersOf::<C>::default()),
        };
        RemovedWaiter { outcome, wakers, _deferred: slot }
    }

    /// Releases `weight`, or grants it to the next waiters and returns their wakers.
    pub(crate) fn release(&mut self, weight: WeightOf<C>, granted_at: impl Fn() -> Option<Instant>) -> WakersOf<C> {
        let seen = self.state.load();
        if seen.waiting() == 0 {
            // No caller can start to wait in between: that needs the mutex.
            self.state.release(weight);
            return WakersOf::<C>::default();
        }
        self.grant(seen.released(weight), granted_at)
    }

    /// Revokes every grant that was made at `limit` or before and not taken, and passes the permits on.
    pub(crate) fn expire_grants(&mut self, limit: Instant, now: Instant) -> ExpiredGrants {
        let mut wakers = Vec::new();
        let mut count = 0;
        while let Some(weight) = self.waiters.expire_oldest(self.slots, limit) {
            count += 1;
            wakers.extend(self.release(weight, || Some(now)));
        }
        ExpiredGrants { count, oldest: self.waiters.oldest_grant(self.slots), wakers }
    }

    /// Refuses waiting and new callers. Returns the wakers of those that were waiting.
    pub(crate) fn close(&mut self) -> Vec<Waker> {
        let wakers = self.waiters.close(self.slots);
        // Closed first: this ends the fast path for new callers, so the state changes only here.
        self.state.close();
        if !wakers.is_empty() {
            self.state.store(self.state.load().dequeued(wakers.len()));
        }
        wakers
    }

    /// Counts a waiter that left the list as no longer waiting, and grants what it may have held up.
    fn dequeue(&mut self, granted_at: impl Fn() -> Option<Instant>) -> WakersOf<C> {
        self.grant(self.state.load().dequeued(1), granted_at)
    }

    /// Grants from the front as far as `state` has room, and stores the resulting state. Must be called only while a
    /// caller is waiting.
    fn grant(&mut self, mut state: C::State, granted_at: impl Fn() -> Option<Instant>) -> WakersOf<C> {
        let mut wakers = WakersOf::<C>::default();
        let mut is_stored = false;
        while let Some(weight) = self.waiters.next_weight(self.slots, self.config.order)
            && state.has_room(self.config.permits, weight)
        {
            let seen = state;
            state = state.dequeued(1).acquired(weight);
            // Stored with each grant: a count that is carried over must not run ahead of the state.
            self.state.store(state);
            self.state.count_grant(seen);
            is_stored = true;
            if let Some(waker) = self.waiters.grant_next(self.slots, self.config.order, granted_at()) {
                wakers.push(waker);
            }
        }
        if !is_stored {
            self.state.store(state);
        }
        wakers
    }
}

impl<C: StateCell<State = TokenState>> WaitQueue<'_, C> {
    /// Changes the total by `by` tokens. Returns the wakers of the waiters that were granted tokens.
    pub(crate) fn resize(&mut self, by: i64) -> WakersOf<C> {
        let mut seen = self.state.load();
        loop {
            let resized = seen.resized(by);
            if seen.waiting() > 0 {
                return self.grant(resized, || None);
            }
            // Without waiters, callers acquire and release without the mutex.
            match self.state.compare_exchange(seen, resized) {
                Ok(()) => return WakersOf::<C>::default(),
                Err(now) => seen = now,
            }
        }
    }
}
