//! [`Shard`], some of a guard's keys behind one mutex, each with a lane.
//!
//! # Invariants
//!
//! 1. A key has an entry exactly while someone holds one of its permits, waits for one, or has not yet been told how its
//!    wait ended. The critical section in which the last of them goes removes the entry.
//! 2. So an index stays the same lane's as long as a caller holds its permit or has a ticket of it.
//! 3. Keys are hashed outside of the mutex and dropped outside of it. They are compared under it: no panic of `Eq` leaves
//!    anything half-done, as it comes before the first change.

#[cfg(all(test, loom))]
#[path = "loom_tests.rs"]
mod loom_tests;
#[cfg(all(test, not(loom)))]
#[path = "property_tests.rs"]
mod property_tests;

use std::task::Waker;

use tokio::time::Instant;

use super::key_semaphore::{KeySemaphore, PlainState, Terms};
use crate::counter::Counter;
use crate::guard::key_map::{Hash64, Relic, Table};
use crate::semaphore::{
    CancelOutcome, EnqueueOutcome, Refused, SemaphoreSnapshot, StateCell, WaitCounters, WaitOutcome, WaitQueue,
    WaiterId, WaiterPoll, WaiterSlots, wake_all,
};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};

#[derive(Debug)]
pub(crate) struct Shard<K> {
    lanes: Mutex<Lanes<K>>,
    tally: WaitCounters,
    granted: Counter,
    held: Counter,
    waiting: Counter,
    keys: Counter,
    /// Changes under the mutex.
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct Lanes<K> {
    table: Table<K, KeySemaphore>,
    slots: WaiterSlots,
}

impl<K: Eq> Shard<K> {
    pub(crate) fn new() -> Self {
        Self {
            lanes: Mutex::new(Lanes { table: Table::new(), slots: WaiterSlots::new() }),
            tally: WaitCounters::new(),
            granted: Counter::new(),
            held: Counter::new(),
            waiting: Counter::new(),
            keys: Counter::new(),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Takes a free permit of a key. The key is taken if it is a new one.
    #[inline]
    pub(crate) fn try_enter(&self, terms: Terms<'_>, hash: Hash64, key: &mut Option<K>) -> Result<u32, Refused> {
        let mut lanes = lock(&self.lanes);
        let known = key.as_ref().expect("a caller brings its key");
        match lanes.table.find(hash, known) {
            None => self.open(&mut lanes, terms, hash, key),
            Some(index) => {
                let word = &lanes.table.value(index).word;
                let seen = word.get();
                if !seen.admits(terms.rules.permits) {
                    return Err(if seen.is_closed() { Refused::Closed } else { Refused::Busy });
                }
                word.set(seen.entered());
                self.granted.add_alone(1);
                self.held.add_alone(1);
                Ok(index)
            }
        }
    }

    /// Takes a permit that has come free, or the last place in the queue. Returns the lane's index where it has either.
    pub(crate) fn join(
        &self,
        terms: Terms<'_>,
        hash: Hash64,
        key: &mut Option<K>,
        waker: &Waker,
    ) -> Result<(u32, EnqueueOutcome), Refused> {
        let mut waker = Some(waker.clone());
        let mut lanes = lock(&self.lanes);
        let known = key.as_ref().expect("a caller brings its key");
        match lanes.table.find(hash, known) {
            None => self.open(&mut lanes, terms, hash, key).map(|index| (index, EnqueueOutcome::Entered)),
            Some(index) => match self.turns(&mut lanes, terms, index, |turns| turns.join((), &mut waker)) {
                EnqueueOutcome::Refused(refused) => Err(refused),
                joined => Ok((index, joined)),
            },
        }
    }

    /// Asks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    pub(crate) fn ask(
        &self,
        terms: Terms<'_>,
        index: u32,
        ticket: &mut Option<WaiterId>,
        waker: &Waker,
    ) -> Option<WaitOutcome> {
        let mut fresh = None;
        loop {
            match self.locked(terms, index, |turns| turns.look(ticket, waker, &mut fresh)).0 {
                WaiterPoll::Waiting(_) => return None,
                WaiterPoll::WantsWaker => fresh = Some(waker.clone()),
                WaiterPoll::Over(answer, _) => return answer,
            }
        }
    }

    /// Asks for the last time: leaves the queue, unless the turn has come. Returns how many wait on.
    pub(crate) fn give_up(&self, terms: Terms<'_>, index: u32, ticket: WaiterId) -> (Option<WaitOutcome>, usize) {
        let give_up = |turns: &mut WaitQueue<'_, PlainState<'_>>| (turns.give_up(ticket), turns.word.load().waiting());
        let ((departure, waiting), _relic) = self.locked(terms, index, give_up);
        (departure.told, waiting)
    }

    /// Gives up the place in the queue, or passes on the permit that was set aside for it.
    pub(crate) fn leave(&self, terms: Terms<'_>, index: u32, ticket: WaiterId, now: Option<Instant>) -> CancelOutcome {
        let (departure, _relic) = self.locked(terms, index, |turns| turns.leave(ticket, || now));
        if let Some(waker) = departure.next {
            waker.wake();
        }
        departure.told
    }

    /// Gives a permit back, to the next in line if there is one. Returns `true` if the shard is closed.
    #[inline]
    pub(crate) fn exit(&self, terms: Terms<'_>, index: u32, now: impl Fn() -> Option<Instant>) -> bool {
        let mut lanes = lock(&self.lanes);
        let is_closed = self.is_closed();
        let lane = lanes.table.value(index);
        let seen = lane.word.get();
        if seen.is_quiet() {
            let left = seen.left();
            lane.word.set(left);
            self.held.subtract_alone(1);
            let relic = (left.is_idle() && lane.line.is_deserted()).then(|| self.remove(&mut lanes, terms, index));
            drop(lanes);
            drop(relic);
            return false;
        }
        let next = self.turns(&mut lanes, terms, index, |turns| turns.hand_over((), now));
        let relic = self.remove_if_over(&mut lanes, terms, index);
        drop(lanes);
        drop(relic);
        if let Some(waker) = next {
            waker.wake();
        }
        is_closed
    }

    /// Takes back every grant of a lane that was made at `limit` or before and that nobody took, and passes it on.
    pub(crate) fn expire_grants(
        &self,
        terms: Terms<'_>,
        index: u32,
        limit: Instant,
        now: Instant,
    ) -> (usize, Option<Instant>) {
        let (expired, _relic) = self.locked(terms, index, |turns| turns.expire_grants(limit, now));
        wake_all(expired.next);
        (expired.turns, expired.oldest)
    }

    /// Takes back every grant of a key's lane, as [`expire_grants`](Self::expire_grants) does.
    pub(crate) fn expire_for(
        &self,
        terms: Terms<'_>,
        hash: Hash64,
        key: &K,
        limit: Instant,
        now: Instant,
    ) -> (usize, Option<Instant>) {
        let mut lanes = lock(&self.lanes);
        let Some(index) = lanes.table.find(hash, key) else { return (0, None) };
        let expired = self.turns(&mut lanes, terms, index, |turns| turns.expire_grants(limit, now));
        drop(lanes);
        wake_all(expired.next);
        (expired.turns, expired.oldest)
    }

    /// Takes back the grants of all lanes, as [`expire_grants`](Self::expire_grants) does. Returns how many.
    pub(crate) fn expire_all(&self, terms: Terms<'_>, limit: Instant, now: Instant) -> usize {
        let mut turns = 0;
        let mut next = Vec::new();
        let mut lanes = lock(&self.lanes);
        for index in lanes.table.indices() {
            let expired = self.turns(&mut lanes, terms, index, |turns| turns.expire_grants(limit, now));
            turns += expired.turns;
            next.extend(expired.next);
        }
        drop(lanes);
        wake_all(next);
        turns
    }

    /// Refuses who waits and who comes. Returns those that waited: wake them once every shard is closed, as a waker may
    /// panic.
    pub(crate) fn close(&self, terms: Terms<'_>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut lanes = lock(&self.lanes);
        self.is_closed.store(true, Ordering::Relaxed);
        for index in lanes.table.indices() {
            wakers.extend(self.turns(&mut lanes, terms, index, |turns| turns.close()));
        }
        wakers
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Closed, and the last permit has come back.
    pub(crate) fn is_drained(&self) -> bool {
        let _lanes = lock(&self.lanes);
        self.is_closed() && self.held.value() == 0
    }

    /// The index of a key's lane.
    pub(crate) fn find(&self, hash: Hash64, key: &K) -> Option<u32> {
        lock(&self.lanes).table.find(hash, key)
    }

    /// How many wait for a key.
    pub(crate) fn waiting_for(&self, hash: Hash64, key: &K) -> usize {
        let mut lanes = lock(&self.lanes);
        let Some(index) = lanes.table.find(hash, key) else { return 0 };
        lanes.table.value(index).word.get().waiting()
    }

    /// What goes on in all lanes. Takes no lock.
    pub(crate) fn snapshot(&self) -> SemaphoreSnapshot {
        SemaphoreSnapshot {
            held: self.held.value() as usize,
            waiting: self.waiting.value() as usize,
            granted: self.granted.value(),
            is_closed: self.is_closed.load(Ordering::Relaxed),
        }
    }

    /// How many keys there are. Takes no lock.
    pub(crate) fn len(&self) -> usize {
        self.keys.value() as usize
    }

    pub(crate) fn tally(&self) -> &WaitCounters {
        &self.tally
    }

    /// A lane for a new key, with one permit taken.
    #[inline]
    fn open(&self, lanes: &mut Lanes<K>, terms: Terms<'_>, hash: Hash64, key: &mut Option<K>) -> Result<u32, Refused> {
        if self.is_closed() {
            return Err(Refused::Closed);
        }
        if terms.limit.is_some_and(|limit| !limit.take()) {
            return Err(Refused::TooManyKeys);
        }
        let key = key.take().expect("a caller brings its key");
        let index = lanes.table.insert(hash, key, KeySemaphore::entered());
        self.keys.add_alone(1);
        self.granted.add_alone(1);
        self.held.add_alone(1);
        Ok(index)
    }

    /// Decides about a lane under the mutex, and removes it if it is over. What it returns is dropped without the mutex.
    fn locked<R>(
        &self,
        terms: Terms<'_>,
        index: u32,
        decide: impl FnOnce(&mut WaitQueue<'_, PlainState<'_>>) -> R,
    ) -> (R, Option<Relic<K, KeySemaphore>>) {
        let mut lanes = lock(&self.lanes);
        let decision = self.turns(&mut lanes, terms, index, decide);
        let relic = self.remove_if_over(&mut lanes, terms, index);
        (decision, relic)
    }

    fn turns<R>(
        &self,
        lanes: &mut Lanes<K>,
        terms: Terms<'_>,
        index: u32,
        decide: impl FnOnce(&mut WaitQueue<'_, PlainState<'_>>) -> R,
    ) -> R {
        let Lanes { table, slots, .. } = lanes;
        let KeySemaphore { word, line } = table.value(index);
        let before = word.get();
        let cell = &PlainState { word, granted: &self.granted };
        let decision = decide(&mut WaitQueue { rules: terms.rules, word: cell, line, slots, tally: &self.tally });
        let after = word.get();
        // Two's complement: the difference may be negative.
        self.held.add_alone((after.held() as u64).wrapping_sub(before.held() as u64));
        self.waiting.add_alone((after.waiting() as u64).wrapping_sub(before.waiting() as u64));
        decision
    }

    fn remove_if_over(&self, lanes: &mut Lanes<K>, terms: Terms<'_>, index: u32) -> Option<Relic<K, KeySemaphore>> {
        let lane = lanes.table.value(index);
        (lane.word.get().is_idle() && lane.line.is_deserted()).then(|| self.remove(lanes, terms, index))
    }

    #[inline]
    fn remove(&self, lanes: &mut Lanes<K>, terms: Terms<'_>, index: u32) -> Relic<K, KeySemaphore> {
        self.keys.subtract_alone(1);
        if let Some(limit) = terms.limit {
            limit.free();
        }
        lanes.table.dissolve(index)
    }
}
