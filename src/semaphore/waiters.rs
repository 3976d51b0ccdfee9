//! Who waits and whose turn has come: pure data structures, always behind a mutex.
//!
//! A [`WaiterList`] is the queue of one lane. Its waiters' [`WaiterSlots`] may be shared with other lanes behind the same mutex, as
//! those of a keyed guard are.
//!
//! # Invariants
//!
//! 1. A slot belongs to one waiter from [`WaiterList::join`] until [`WaiterList::leave`] of the same [`WaiterId`].
//! 2. A slot is linked in `waiting` exactly while it is [`WaiterState::Waiting`], in `granted` exactly while it is
//!    [`WaiterState::Granted`], and in the free list exactly while nobody owns it.
//! 3. Without owned slots there is no heap memory.
//!
//! WaiterSlots link to each other by index, so leaving from the middle costs the same as leaving from the front, and no
//! pointer is involved.

use std::mem;
use std::num::NonZeroUsize;
use std::task::Waker;

use tokio::time::Instant;

use super::order::Order;

const NONE: u32 = u32::MAX;

/// A waiter's place in the queue: its slot's index, plus one.
///
/// As wide as a pointer, and never zero, so that a future with an `Option<WaiterId>` consists of whole words: it is moved
/// before its first poll, and copying it piecemeal would cost more than the turn.
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
        // It was made from one.
        self.index() as u32
    }
}

/// What a waiter finds at its place.
#[derive(Debug)]
pub(crate) enum WaiterState {
    /// Not yet its turn. The waker tells it when it is.
    Waiting(Waker),
    /// A permit is set aside for it, since then if grants expire.
    Granted(Option<Instant>),
    /// The permit set aside was not taken in time and went to another.
    Expired,
    /// The lane was closed.
    Closed,
    /// Nobody's place.
    Vacant,
}

#[derive(Debug)]
struct Slot<T> {
    turn: WaiterState,
    prev: u32,
    next: u32,
    /// How much it asks for.
    weight: T,
}

/// The places of waiters, in whichever line. Where all of them ask for one permit, `T` takes no space.
#[derive(Debug)]
pub(crate) struct WaiterSlots<T = ()> {
    all: Vec<Slot<T>>,
    vacant: u32,
    owned: usize,
}

/// The queue of one lane.
#[derive(Debug)]
pub(crate) struct WaiterList {
    waiting: List,
    granted: List,
    /// Places that nobody has left yet.
    owned: u32,
}

/// A doubly linked list through the slots.
#[derive(Debug)]
struct List {
    front: u32,
    back: u32,
}

impl<T: Copy> WaiterSlots<T> {
    pub(crate) const fn new() -> Self {
        Self { all: Vec::new(), vacant: NONE, owned: 0 }
    }

    pub(crate) fn turn(&mut self, ticket: &WaiterId) -> &mut WaiterState {
        &mut self.all[ticket.index()].turn
    }

    fn take(&mut self, turn: WaiterState, weight: T) -> u32 {
        self.owned += 1;
        match self.vacant {
            NONE => {
                // A word counts waiters in 23 bits, but there are many lanes, and a slot can outlive its waiting.
                let index = u32::try_from(self.all.len()).expect("fewer than 2^32 callers wait");
                self.all.push(Slot { turn, prev: NONE, next: NONE, weight });
                index
            }
            index => {
                let slot = &mut self.all[index as usize];
                slot.turn = turn;
                slot.weight = weight;
                self.vacant = slot.next;
                index
            }
        }
    }

    /// Returns what is to be dropped after the mutex is unlocked.
    fn free(&mut self, index: u32) -> Vec<Slot<T>> {
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
        Self { waiting: List::new(), granted: List::new(), owned: 0 }
    }

    /// Every place was left.
    pub(crate) fn is_deserted(&self) -> bool {
        self.owned == 0
    }

    /// Gives a new waiter the last place.
    pub(crate) fn join<T: Copy>(&mut self, slots: &mut WaiterSlots<T>, waker: Waker, weight: T) -> WaiterId {
        let index = slots.take(WaiterState::Waiting(waker), weight);
        self.owned += 1;
        self.waiting.push_back(&mut slots.all, index);
        WaiterId::new(index)
    }

    /// How much the next in line asks for: the front of the queue, or its back under [`Order::Lifo`].
    pub(crate) fn next_weight<T: Copy>(&self, slots: &WaiterSlots<T>, order: Order) -> Option<T> {
        slots.all.get(self.next_index(order) as usize).map(|slot| slot.weight)
    }

    /// The next in line gets its turn.
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
        match mem::replace(&mut slots.all[index as usize].turn, WaiterState::Granted(now)) {
            WaiterState::Waiting(waker) => Some(waker),
            turn => unreachable!("a slot in the waiting list is waiting, not {turn:?}"),
        }
    }

    fn next_index(&self, order: Order) -> u32 {
        match order {
            Order::Fifo => self.waiting.front,
            Order::Lifo => self.waiting.back,
        }
    }

    /// Takes back the oldest grant, if it was made at `limit` or before. Returns how much it was.
    pub(crate) fn expire_oldest<T: Copy>(&mut self, slots: &mut WaiterSlots<T>, limit: Instant) -> Option<T> {
        if self.oldest_grant(slots)? > limit {
            return None;
        }
        let index = self.granted.front;
        self.granted.unlink(&mut slots.all, index);
        let slot = &mut slots.all[index as usize];
        slot.turn = WaiterState::Expired;
        Some(slot.weight)
    }

    /// When the oldest grant that nobody took yet was made.
    pub(crate) fn oldest_grant<T>(&self, slots: &WaiterSlots<T>) -> Option<Instant> {
        match slots.all.get(self.granted.front as usize)?.turn {
            WaiterState::Granted(since) => since,
            _ => None,
        }
    }

    /// Tells every waiter that the lane is closed.
    pub(crate) fn close<T>(&mut self, slots: &mut WaiterSlots<T>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while self.waiting.front != NONE {
            let index = self.waiting.front;
            self.waiting.unlink(&mut slots.all, index);
            if let WaiterState::Waiting(waker) = mem::replace(&mut slots.all[index as usize].turn, WaiterState::Closed)
            {
                wakers.push(waker);
            }
        }
        wakers
    }

    /// Gives the place up. What is returned, drop after the mutex is unlocked.
    pub(crate) fn leave<T: Copy>(&mut self, slots: &mut WaiterSlots<T>, ticket: WaiterId) -> Left<T> {
        let index = ticket.into_index();
        let weight = slots.all[index as usize].weight;
        let turn = mem::replace(&mut slots.all[index as usize].turn, WaiterState::Vacant);
        match turn {
            WaiterState::Waiting(_) => self.waiting.unlink(&mut slots.all, index),
            WaiterState::Granted(_) => self.granted.unlink(&mut slots.all, index),
            WaiterState::Expired | WaiterState::Closed => {}
            WaiterState::Vacant => unreachable!("a ticket is given up once: leave takes it by value"),
        }
        self.owned -= 1;
        Left { turn, weight, _garbage: slots.free(index) }
    }
}

/// What a waiter left behind.
#[derive(Debug)]
pub(crate) struct Left<T = ()> {
    pub(crate) turn: WaiterState,
    pub(crate) weight: T,
    _garbage: Vec<Slot<T>>,
}

impl List {
    const fn new() -> Self {
        Self { front: NONE, back: NONE }
    }

    fn push_back<T>(&mut self, slots: &mut [Slot<T>], index: u32) {
        let slot = &mut slots[index as usize];
        slot.prev = self.back;
        slot.next = NONE;
        match self.back {
            NONE => self.front = index,
            back => slots[back as usize].next = index,
        }
        self.back = index;
    }

    fn unlink<T>(&mut self, slots: &mut [Slot<T>], index: u32) {
        let Slot { prev, next, .. } = slots[index as usize];
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
    fn weight_takes_no_space_where_everybody_asks_for_one_permit() {
        #[expect(dead_code, reason = "only its size is looked at")]
        struct Weightless {
            turn: WaiterState,
            prev: u32,
            next: u32,
        }
        assert_eq!(size_of::<Slot<()>>(), size_of::<Weightless>());
        assert_eq!(size_of::<Left>(), size_of::<(WaiterState, Vec<Weightless>)>());
    }
}
