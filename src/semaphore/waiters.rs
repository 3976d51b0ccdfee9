//! The waiters of a semaphore: pure data structures that a mutex protects.
//!
//! A [`WaiterList`] is the queue of one semaphore. The [`WaiterSlots`] of its waiters may be shared with other
//! semaphores under the same mutex, as in a keyed guard's shard.
//!
//! # Invariants
//!
//! 1. A slot belongs to one waiter from [`WaiterList::push`] until [`WaiterList::remove`] of the same [`WaiterId`].
//! 2. A slot is linked in `waiting` exactly while it is [`WaiterState::Waiting`], in `granted` exactly while it is
//!    [`WaiterState::Granted`], and in the free list exactly while it belongs to no waiter.
//! 3. While there are no waiters, no heap memory is held.
//!
//! Slots link to each other by index, so removing from the middle costs the same as removing from the front, and no
//! pointer is involved.

use std::mem;
use std::num::NonZeroUsize;
use std::task::Waker;

use tokio::time::Instant;

use super::order::Order;
use crate::waker_slot::WakerSlot;

const NONE: u32 = u32::MAX;

/// Identifies a waiter: the index of its slot, plus one.
///
/// The id is as wide as a pointer, and never zero, so that a future with an `Option<WaiterId>` consists of whole
/// machine words. A future is moved before its first poll, and copying it piecemeal would cost more than acquiring the
/// permit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WaiterId(NonZeroUsize);

impl WaiterId {
    fn new(index: u32) -> Self {
        Self(NonZeroUsize::MIN.saturating_add(index as usize))
    }

    fn index(&self) -> usize {
        self.0.get() - 1
    }

    fn into_index(self) -> u32 {
        // The index was a u32 in `new`.
        self.index() as u32
    }
}

#[derive(Debug)]
pub(crate) enum WaiterState {
    /// The waiter is in the queue. Its waker is woken when the wait ends.
    Waiting(WakerSlot),
    /// A permit is set aside for the waiter. Contains the time of the grant if grants expire.
    Granted(Option<Instant>),
    /// The waiter did not take its grant in time, and the permit was passed on.
    Expired,
    /// A newer waiter evicted this waiter from the full queue.
    Evicted,
    /// The semaphore was closed.
    Closed,
    /// The slot belongs to no waiter.
    Vacant,
}

#[derive(Debug)]
struct WaiterSlot<T> {
    state: WaiterState,
    prev: u32,
    next: u32,
    /// The amount that the waiter acquires.
    weight: T,
}

/// The slots of the waiters of one or more lists. If every waiter acquires one permit, `T` takes no space.
#[derive(Debug)]
pub(crate) struct WaiterSlots<T = ()> {
    all: Vec<WaiterSlot<T>>,
    vacant: u32,
    owned: usize,
}

/// The queue of one semaphore.
#[derive(Debug)]
pub(crate) struct WaiterList {
    waiting: SlotList,
    granted: SlotList,
    /// The number of slots that belong to waiters of this list.
    owned: u32,
}

/// A doubly linked list through the slots.
#[derive(Debug)]
struct SlotList {
    front: u32,
    back: u32,
}

impl<T: Copy> WaiterSlots<T> {
    pub(crate) const fn new() -> Self {
        Self { all: Vec::new(), vacant: NONE, owned: 0 }
    }

    pub(crate) fn state(&mut self, waiter: &WaiterId) -> &mut WaiterState {
        &mut self.all[waiter.index()].state
    }

    fn allocate(&mut self, state: WaiterState, weight: T) -> u32 {
        self.owned += 1;
        match self.vacant {
            NONE => {
                // A state counts waiters in 23 bits, but many states may share the slots, and a waiter keeps its slot
                // after the wait has ended.
                let index = u32::try_from(self.all.len()).expect("fewer than 2^32 callers wait");
                self.all.push(WaiterSlot { state, prev: NONE, next: NONE, weight });
                index
            }
            index => {
                let slot = &mut self.all[index as usize];
                slot.state = state;
                slot.weight = weight;
                self.vacant = slot.next;
                index
            }
        }
    }

    /// Frees a slot. Returns memory that must be dropped after the mutex is unlocked.
    fn free(&mut self, index: u32) -> Vec<WaiterSlot<T>> {
        self.all[index as usize].next = mem::replace(&mut self.vacant, index);
        self.owned -= 1;
        if self.owned > 0 {
            return Vec::new();
        }
        self.vacant = NONE;
        mem::take(&mut self.all)
    }
}

impl WaiterList {
    pub(crate) const fn new() -> Self {
        Self { waiting: SlotList::new(), granted: SlotList::new(), owned: 0 }
    }

    /// Returns `true` if every waiter has been removed.
    pub(crate) fn is_empty(&self) -> bool {
        self.owned == 0
    }

    /// Adds a waiter at the back of the queue.
    pub(crate) fn push<T: Copy>(&mut self, slots: &mut WaiterSlots<T>, waker: Waker, weight: T) -> WaiterId {
        let index = slots.allocate(WaiterState::Waiting(waker.into()), weight);
        self.owned += 1;
        self.waiting.push_back(&mut slots.all, index);
        WaiterId::new(index)
    }

    /// Returns how much the next waiter acquires: the one at the front, or at the back under [`Order::Lifo`].
    pub(crate) fn next_weight<T: Copy>(&self, slots: &WaiterSlots<T>, order: Order) -> Option<T> {
        slots.all.get(self.next_index(order) as usize).map(|slot| slot.weight)
    }

    /// Grants the next waiter what it acquires, and returns its waker.
    pub(crate) fn grant_next<T>(
        &mut self,
        slots: &mut WaiterSlots<T>,
        order: Order,
        now: Option<Instant>,
    ) -> Option<Waker> {
        let index = self.next_index(order);
        if index == NONE {
            return None;
        }
        self.waiting.unlink(&mut slots.all, index);
        self.granted.push_back(&mut slots.all, index);
        match mem::replace(&mut slots.all[index as usize].state, WaiterState::Granted(now)) {
            WaiterState::Waiting(mut slot) => slot.take(),
            state => unreachable!("a slot in the waiting list is waiting, not {state:?}"),
        }
    }

    fn next_index(&self, order: Order) -> u32 {
        match order {
            Order::Fifo => self.waiting.front,
            Order::Lifo => self.waiting.back,
        }
    }

    /// Revokes the oldest grant if it was made at `limit` or before. Returns how much was granted.
    pub(crate) fn expire_oldest<T: Copy>(&mut self, slots: &mut WaiterSlots<T>, limit: Instant) -> Option<T> {
        if self.oldest_grant(slots)? > limit {
            return None;
        }
        let index = self.granted.front;
        self.granted.unlink(&mut slots.all, index);
        let slot = &mut slots.all[index as usize];
        slot.state = WaiterState::Expired;
        Some(slot.weight)
    }

    /// Returns when the oldest grant that was not taken yet was made.
    pub(crate) fn oldest_grant<T>(&self, slots: &WaiterSlots<T>) -> Option<Instant> {
        match slots.all.get(self.granted.front as usize)?.state {
            WaiterState::Granted(since) => since,
            _ => None,
        }
    }

    /// Ends the wait of the oldest waiter with [`WaiterState::Evicted`] and returns its waker.
    pub(crate) fn evict_oldest<T>(&mut self, slots: &mut WaiterSlots<T>) -> Option<Waker> {
        self.end_oldest(slots, WaiterState::Evicted)
    }

    /// Ends every wait with [`WaiterState::Closed`] and returns the wakers.
    pub(crate) fn close<T>(&mut self, slots: &mut WaiterSlots<T>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while self.waiting.front != NONE {
            wakers.extend(self.end_oldest(slots, WaiterState::Closed));
        }
        wakers
    }

    /// Ends the wait of the oldest waiter, if there is one, with the state `end`. Returns its waker.
    fn end_oldest<T>(&mut self, slots: &mut WaiterSlots<T>, end: WaiterState) -> Option<Waker> {
        let index = self.waiting.front;
        let slot = slots.all.get_mut(index as usize)?;
        let state = mem::replace(&mut slot.state, end);
        self.waiting.unlink(&mut slots.all, index);
        match state {
            WaiterState::Waiting(mut slot) => slot.take(),
            state => unreachable!("a slot in the waiting list is waiting, not {state:?}"),
        }
    }

    /// Removes a waiter and frees its slot. The result must be dropped after the mutex is unlocked.
    pub(crate) fn remove<T: Copy>(&mut self, slots: &mut WaiterSlots<T>, waiter: WaiterId) -> RemovedSlot<T> {
        let index = waiter.into_index();
        let weight = slots.all[index as usize].weight;
        let state = mem::replace(&mut slots.all[index as usize].state, WaiterState::Vacant);
        match state {
            WaiterState::Waiting(_) => self.waiting.unlink(&mut slots.all, index),
            WaiterState::Granted(_) => self.granted.unlink(&mut slots.all, index),
            WaiterState::Expired | WaiterState::Evicted | WaiterState::Closed => {}
            WaiterState::Vacant => unreachable!("a waiter is removed once: `remove` takes its id by value"),
        }
        self.owned -= 1;
        RemovedSlot { state, weight, _deferred: slots.free(index) }
    }
}

/// The former contents of a freed slot.
#[derive(Debug)]
pub(crate) struct RemovedSlot<T = ()> {
    pub(crate) state: WaiterState,
    pub(crate) weight: T,
    _deferred: Vec<WaiterSlot<T>>,
}

impl SlotList {
    const fn new() -> Self {
        Self { front: NONE, back: NONE }
    }

    fn push_back<T>(&mut self, slots: &mut [WaiterSlot<T>], index: u32) {
        let slot = &mut slots[index as usize];
        slot.prev = self.back;
        slot.next = NONE;
        match self.back {
            NONE => self.front = index,
            back => slots[back as usize].next = index,
        }
        self.back = index;
    }

    fn unlink<T>(&mut self, slots: &mut [WaiterSlot<T>], index: u32) {
        let WaiterSlot { prev, next, .. } = slots[index as usize];
        match prev {
            NONE => self.front = next,
            prev => slots[prev as usize].next = next,
        }
        match next {
            NONE => self.back = prev,
            next => slots[next as usize].prev = prev,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::mem::size_of;

    use super::*;

    #[test]
    fn weight_takes_no_space_if_every_waiter_acquires_one_permit() {
        #[expect(dead_code, reason = "only its size is used")]
        struct Weightless {
            state: WaiterState,
            prev: u32,
            next: u32,
        }
        assert_eq!(size_of::<WaiterSlot<()>>(), size_of::<Weightless>());
        assert_eq!(size_of::<RemovedSlot>(), size_of::<(WaiterState, Vec<Weightless>)>());
    }
}
