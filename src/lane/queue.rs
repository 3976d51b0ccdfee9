//! Who waits and whose turn has come: pure data structures, always behind a mutex.
//!
//! A [`Line`] is the queue of one lane. Its waiters' [`Slots`] may be shared with other lanes behind the same mutex, as
//! those of a keyed guard are.
//!
//! # Invariants
//!
//! 1. A slot belongs to one waiter from [`Line::join`] until [`Line::leave`] of the same [`Ticket`].
//! 2. A slot is linked in `waiting` exactly while it is [`Turn::Waiting`], in `granted` exactly while it is
//!    [`Turn::Granted`], and in the free list exactly while nobody owns it.
//! 3. Without owned slots there is no heap memory.
//!
//! Slots link to each other by index, so leaving from the middle costs the same as leaving from the front, and no
//! pointer is involved.

use std::mem;
use std::num::NonZeroUsize;
use std::task::Waker;

use tokio::time::Instant;

use super::order::Order;

const NONE: u32 = u32::MAX;

/// A waiter's place in the queue: its slot's index, plus one.
///
/// As wide as a pointer, and never zero, so that a future with an `Option<Ticket>` consists of whole words: it is moved
/// before its first poll, and copying it piecemeal would cost more than the turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket(NonZeroUsize);

impl Ticket {
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
pub(crate) enum Turn {
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
struct Slot {
    turn: Turn,
    prev: u32,
    next: u32,
}

/// The places of waiters, in whichever line.
#[derive(Debug)]
pub(crate) struct Slots {
    all: Vec<Slot>,
    vacant: u32,
    owned: usize,
}

/// The queue of one lane.
#[derive(Debug)]
pub(crate) struct Line {
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

impl Slots {
    pub(crate) const fn new() -> Self {
        Self { all: Vec::new(), vacant: NONE, owned: 0 }
    }

    pub(crate) fn turn(&mut self, ticket: &Ticket) -> &mut Turn {
        &mut self.all[ticket.index()].turn
    }

    fn take(&mut self, turn: Turn) -> u32 {
        self.owned += 1;
        match self.vacant {
            NONE => {
                // A word counts waiters in 23 bits, but there are many lanes, and a slot can outlive its waiting.
                let index = u32::try_from(self.all.len()).expect("fewer than 2^32 callers wait");
                self.all.push(Slot { turn, prev: NONE, next: NONE });
                index
            }
            index => {
                let slot = &mut self.all[index as usize];
                slot.turn = turn;
                self.vacant = slot.next;
                index
            }
        }
    }

    /// Returns what is to be dropped after the mutex is unlocked.
    fn free(&mut self, index: u32) -> Vec<Slot> {
        self.all[index as usize].next = mem::replace(&mut self.vacant, index);
        self.owned -= 1;
        if self.owned > 0 {
            return Vec::new();
        }
        self.vacant = NONE;
        mem::take(&mut self.all)
    }
}

impl Line {
    pub(crate) const fn new() -> Self {
        Self { waiting: List::new(), granted: List::new(), owned: 0 }
    }

    /// Every place was left.
    pub(crate) fn is_deserted(&self) -> bool {
        self.owned == 0
    }

    /// Gives a new waiter the last place.
    pub(crate) fn join(&mut self, slots: &mut Slots, waker: Waker) -> Ticket {
        let index = slots.take(Turn::Waiting(waker));
        self.owned += 1;
        self.waiting.push_back(&mut slots.all, index);
        Ticket::new(index)
    }

    /// Whose turn is next gets it: the front of the queue, or its back under [`Order::Lifo`].
    pub(crate) fn grant_next(&mut self, slots: &mut Slots, order: Order, now: Option<Instant>) -> Option<Waker> {
        let index = match order {
            Order::Fifo => self.waiting.front,
            Order::Lifo => self.waiting.back,
        };
        if index == NONE {
            return None;
        }
        self.waiting.unlink(&mut slots.all, index);
        self.granted.push_back(&mut slots.all, index);
        match mem::replace(&mut slots.all[index as usize].turn, Turn::Granted(now)) {
            Turn::Waiting(waker) => Some(waker),
            turn => unreachable!("a slot in the waiting list is waiting, not {turn:?}"),
        }
    }

    /// Takes back the oldest grant, if it was made at `limit` or before.
    pub(crate) fn expire_oldest(&mut self, slots: &mut Slots, limit: Instant) -> bool {
        match self.oldest_grant(slots) {
            Some(since) if since <= limit => {
                let index = self.granted.front;
                self.granted.unlink(&mut slots.all, index);
                slots.all[index as usize].turn = Turn::Expired;
                true
            }
            _ => false,
        }
    }

    /// When the oldest grant that nobody took yet was made.
    pub(crate) fn oldest_grant(&self, slots: &Slots) -> Option<Instant> {
        match slots.all.get(self.granted.front as usize)?.turn {
            Turn::Granted(since) => since,
            _ => None,
        }
    }

    /// Tells every waiter that the lane is closed.
    pub(crate) fn close(&mut self, slots: &mut Slots) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while self.waiting.front != NONE {
            let index = self.waiting.front;
            self.waiting.unlink(&mut slots.all, index);
            if let Turn::Waiting(waker) = mem::replace(&mut slots.all[index as usize].turn, Turn::Closed) {
                wakers.push(waker);
            }
        }
        wakers
    }

    /// Gives the place up. What is returned, drop after the mutex is unlocked.
    pub(crate) fn leave(&mut self, slots: &mut Slots, ticket: Ticket) -> Left {
        let index = ticket.into_index();
        let turn = mem::replace(&mut slots.all[index as usize].turn, Turn::Vacant);
        match turn {
            Turn::Waiting(_) => self.waiting.unlink(&mut slots.all, index),
            Turn::Granted(_) => self.granted.unlink(&mut slots.all, index),
            Turn::Expired | Turn::Closed => {}
            Turn::Vacant => unreachable!("a ticket is given up once: leave takes it by value"),
        }
        self.owned -= 1;
        Left { turn, _garbage: slots.free(index) }
    }
}

/// What a waiter left behind.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) turn: Turn,
    _garbage: Vec<Slot>,
}

impl List {
    const fn new() -> Self {
        Self { front: NONE, back: NONE }
    }

    fn push_back(&mut self, slots: &mut [Slot], index: u32) {
        let slot = &mut slots[index as usize];
        slot.prev = self.back;
        slot.next = NONE;
        match self.back {
            NONE => self.front = index,
            back => slots[back as usize].next = index,
        }
        self.back = index;
    }

    fn unlink(&mut self, slots: &mut [Slot], index: u32) {
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
