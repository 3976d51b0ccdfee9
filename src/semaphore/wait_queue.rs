//! [`WaitQueue`], the algorithm: which callers acquire, wait, are granted permits, and leave the queue. Its methods are
//! called with the semaphore's mutex held.
//!
//! Two types use it. [`Semaphore`](super::Semaphore) keeps its state in an atomic, so that permits are acquired and
//! released without the mutex while it is uncontended. The entries of a keyed guard keep their state under the mutex of
//! their shard. Only the [`SemaphoreState`] distinguishes permits from tokens, and knows how many are available.
//!
//! # Invariants
//!
//! 1. `state.waiting` changes only under the mutex, where it equals the number of waiters in the list.
//! 2. While `state.waiting > 0`, there is no room for the next waiter, and the state changes only under the mutex: new
//!    callers enqueue, and a release grants. So with the mutex held, a load returns the latest state, and a plain store
//!    can replace it.
//! 3. Every change that makes room or moves another waiter to the front grants from the front while there is room. Such
//!    changes are a release, a growing total, and the removal of a waiter, which may have blocked the waiters behind
//!    it.
//! 4. A grant counts as held. The waiter takes the grant, or releases it when the waiter is cancelled.
//! 5. Under [`Order::Lifo`], a caller that finds the queue full evicts the oldest waiter, so the number of waiters
//!    stays the same. A waiter with a grant has left the queue and is never evicted.
//! 6. Wakers are cloned, dropped and woken outside the mutex: a waker is user code.

use std::ops::Add;
use std::task::Waker;

use tokio::time::Instant;

use super::order::Order;
use super::outcome::{CancelOutcome, EnqueueOutcome, SemaphoreRefusal, WaitOutcome};
use super::state::{SemaphoreState, WakerSet};
use super::token_state::TokenState;
use super::waiters::{RemovedSlot, WaiterId, WaiterList, WaiterSlots, WaiterState};
use crate::counter::Counter;
use crate::sync::const_unless_loom;

/// The config of a semaphore.
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
    /// Callers that a newer caller evicted from the full queue.
    pub(crate) evicted: Counter,
    /// Permits that were forgotten, which stay held permanently.
    pub(crate) forgotten: Counter,
}

/// The values of the [`WaitCounters`] of one or more semaphores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitTotals {
    pub(crate) queued: u64,
    pub(crate) cancelled: u64,
    pub(crate) evicted: u64,
    pub(crate) forgotten: u64,
}

impl Add for WaitTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            queued: self.queued + other.queued,
            cancelled: self.cancelled + other.cancelled,
            evicted: self.evicted + other.evicted,
            forgotten: self.forgotten + other.forgotten,
        }
    }
}

/// The memory that holds a semaphore's state.
pub(crate) trait StateCell {
    type State: SemaphoreState;

    fn load(&self) -> Self::State;

    /// Replaces the state if it still equals `seen`. Everything that the last holder did is visible afterwards.
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
pub(crate) enum WaiterPoll<T = ()> {
    /// The wait continues, and the caller's waker is registered.
    Pending,
    /// The wait continues, and another waker is registered: poll again with a clone of the caller's waker.
    NeedsWaker,
    /// The wait is over.
    Ready(Option<WaitOutcome>, Option<RemovedSlot<T>>),
}

/// Grants that were revoked.
#[derive(Debug)]
pub(crate) struct ExpiredGrants {
    pub(crate) count: usize,
    /// The time at which the oldest remaining grant was made.
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

    /// Returns `true` if a caller that finds the queue full evicts the oldest waiter.
    pub(crate) const fn evicts(&self) -> bool {
        self.bound > 0 && matches!(self.order, Order::Lifo)
    }
}

impl WaitCounters {
    const_unless_loom! {
        pub(crate) fn new() -> Self {
            Self { queued: Counter::new(), cancelled: Counter::new(), evicted: Counter::new(), forgotten: Counter::new() }
        }
    }

    pub(crate) fn totals(&self) -> WaitTotals {
        WaitTotals {
            queued: self.queued.value(),
            cancelled: self.cancelled.value(),
            evicted: self.evicted.value(),
            forgotten: self.forgotten.value(),
        }
    }
}

impl<C: StateCell> WaitQueue<'_, C> {
    /// Acquires `weight` if it has become available in the meantime, or else adds the caller to the queue. Also returns
    /// the waker of a waiter that was evicted.
    ///
    /// Takes the waker only if the caller is queued. Otherwise the calling code drops the waker after the mutex is
    /// unlocked.
    pub(crate) fn enqueue(
        &mut self,
        weight: WeightOf<C>,
        waker: &mut Option<Waker>,
    ) -> (EnqueueOutcome, Option<Waker>) {
        let mut evicted = None;
        let mut seen = self.state.load();
        loop {
            if seen.is_closed() {
                return (EnqueueOutcome::Refused(SemaphoreRefusal::Closed), None);
            } else if seen.admits(self.config.permits, weight) {
                match self.state.compare_exchange(seen, seen.acquired(weight)) {
                    Ok(()) => {
                        self.state.count_grant(seen);
                        return (EnqueueOutcome::Acquired, None);
                    }
                    Err(now) => seen = now,
                }
            } else if seen.waiting() >= self.config.bound {
                if !self.config.evicts() {
                    return (EnqueueOutcome::Refused(self.config.queue_full()), None);
                }
                // The caller takes the place of the oldest waiter, so the number of waiters in the state stays the
                // same.
                evicted = self.waiters.evict_oldest(self.slots);
                self.counters.evicted.add_exclusive(1);
                break;
            } else if seen.waiting() > 0 {
                self.state.store(seen.enqueued());
                break;
            } else {
                // This is the first waiter: until this exchange, holders can still release without the mutex.
                match self.state.compare_exchange(seen, seen.enqueued()) {
                    Ok(()) => break,
                    Err(now) => seen = now,
                }
            }
        }
        self.counters.queued.add_exclusive(1);
        let waker = waker.take().expect("a caller that enqueues passes a waker");
        (EnqueueOutcome::Queued(self.waiters.push(self.slots, waker, weight)), evicted)
    }

    /// Returns how the wait ended, or that it continues. An outcome removes the waiter and clears its id.
    ///
    /// `spare` is passed to [`WakerSlot::register`](crate::waker_slot::WakerSlot::register).
    pub(crate) fn poll(
        &mut self,
        waiter: &mut Option<WaiterId>,
        waker: &Waker,
        spare: &mut Option<Waker>,
    ) -> WaiterPoll<WeightOf<C>> {
        let Some(id) = waiter.as_ref() else { return WaiterPoll::Ready(None, None) };
        match self.slots.state(id) {
            WaiterState::Waiting(slot) => {
                if slot.register(waker, spare) {
                    WaiterPoll::Pending
                } else {
                    WaiterPoll::NeedsWaker
                }
            }
            state => {
                let outcome = WaitOutcome::of(state);
                WaiterPoll::Ready(outcome, waiter.take().map(|waiter| self.waiters.remove(self.slots, waiter)))
            }
        }
    }

    /// Polls the waiter for the last time and removes it. The outcome is `None` if the waiter was still waiting.
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

    /// Removes the waiter from the queue and releases its grant, if it has one.
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
            // No caller can enqueue in between, because enqueuing takes the mutex.
            self.state.release(weight);
            return WakersOf::<C>::default();
        }
        self.grant(seen.released(weight), granted_at)
    }

    /// Revokes every untaken grant that was made at or before `limit`, and grants its permit to the next waiter.
    pub(crate) fn expire_grants(&mut self, limit: Instant, now: Instant) -> ExpiredGrants {
        let mut wakers = Vec::new();
        let mut count = 0;
        while let Some(weight) = self.waiters.expire_oldest(self.slots, limit) {
            count += 1;
            wakers.extend(self.release(weight, || Some(now)));
        }
        ExpiredGrants { count, oldest: self.waiters.oldest_grant(self.slots), wakers }
    }

    /// Refuses waiting and new callers. Returns the wakers of the waiting callers.
    pub(crate) fn close(&mut self) -> Vec<Waker> {
        let wakers = self.waiters.close(self.slots);
        // The state is closed first. This ends the fast path, so from here on the state changes only under the mutex.
        self.state.close();
        if !wakers.is_empty() {
            self.state.store(self.state.load().dequeued(wakers.len()));
        }
        wakers
    }

    /// Subtracts a waiter that was removed from the list, and grants to the waiters that it may have blocked.
    fn dequeue(&mut self, granted_at: impl Fn() -> Option<Instant>) -> WakersOf<C> {
        self.grant(self.state.load().dequeued(1), granted_at)
    }

    /// Grants from the front while `state` has room, and stores the resulting state. Must be called only while a caller
    /// is waiting.
    fn grant(&mut self, mut state: C::State, granted_at: impl Fn() -> Option<Instant>) -> WakersOf<C> {
        let mut wakers = WakersOf::<C>::default();
        let mut is_stored = false;
        while let Some(weight) = self.waiters.next_weight(self.slots, self.config.order)
            && state.has_room(self.config.permits, weight)
        {
            let seen = state;
            state = state.dequeued(1).acquired(weight);
            // The state is stored with each grant, because a count that is carried over must not be ahead of the state.
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
            // While no caller is waiting, callers acquire and release without the mutex.
            match self.state.compare_exchange(seen, resized) {
                Ok(()) => return WakersOf::<C>::default(),
                Err(now) => seen = now,
            }
        }
    }
}
