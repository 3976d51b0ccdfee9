//! [`WaitQueue`], the algorithm: who enters, waits, is handed a permit, gives up, decided while a lane's mutex is held.
//!
//! It stands between two shells. [`Semaphore`](super::Semaphore) keeps its word in an atomic, so that a free lane is entered and
//! left without the mutex; the lanes of a keyed guard keep theirs behind the mutex of their shard. What a caller asks for
//! and what there is, permits or tokens, is known to the [`State`] alone.
//!
//! # Invariants
//!
//! 1. `word.waiting` changes only under the mutex, where it equals the number of waiters in the line.
//! 2. While `word.waiting > 0`, there is no room for the next in line, and the word changes only under the mutex: who
//!    comes waits, who leaves hands over. So there a load sees the latest word, and a store replaces it.
//! 3. What makes room, or puts another in front, lets in from the front whoever there is room for: what comes back, a
//!    total that grows, and a waiter that leaves, who may have been the one that there was no room for.
//! 4. What is set aside for a waiter counts as held. It takes it, or passes it on when it leaves.
//! 5. A waker is cloned, dropped and woken outside of the mutex: it is foreign code.

use std::task::Waker;

use tokio::time::Instant;

use super::order::Order;
use super::outcome::{CancelOutcome, EnqueueOutcome, Refused, WaitOutcome};
use super::state::{Next, State};
use super::token_state::TokenState;
use super::waiters::{Left, WaiterId, WaiterList, WaiterSlots, WaiterState};
use crate::counter::Counter;

/// What does not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SemaphoreConfig<P = usize> {
    /// From 1 to [`MAX_PERMITS`](super::MAX_PERMITS). Nothing where the word knows.
    pub(crate) permits: P,
    /// The most callers that may wait, from 0 to as many as the word can count.
    pub(crate) bound: usize,
    pub(crate) order: Order,
}

/// Counted under the mutex.
#[derive(Debug)]
pub(crate) struct WaitCounters {
    /// Callers that had to wait.
    pub(crate) queued: Counter,
    /// Callers that left while they waited.
    pub(crate) cancelled: Counter,
}

/// Where a lane's word is.
pub(crate) trait StateCell {
    type PermitState: State;

    fn load(&self) -> Self::PermitState;

    /// Replaces the word if it is still the one `seen`. What the last holder did is visible afterwards.
    fn exchange(&self, seen: Self::PermitState, next: Self::PermitState) -> Result<(), Self::PermitState>;

    /// Replaces the word, under the mutex and while someone waits (invariant 2).
    fn store(&self, next: Self::PermitState);

    /// Something comes back, under the mutex and while nobody waits.
    fn free(&self, weight: WeightOf<Self>);

    fn close(&self);

    /// Counts the grant that followed `seen`.
    fn count_grant(&self, seen: Self::PermitState);
}

pub(crate) type WeightOf<C> = <<C as StateCell>::PermitState as State>::Weight;
pub(crate) type NextOf<C> = <<C as StateCell>::PermitState as State>::Next;
type PermitsOf<C> = <<C as StateCell>::PermitState as State>::Permits;

/// A lane whose mutex is held.
pub(crate) struct WaitQueue<'a, C: StateCell> {
    pub(crate) rules: &'a SemaphoreConfig<PermitsOf<C>>,
    pub(crate) word: &'a C,
    pub(crate) line: &'a mut WaiterList,
    pub(crate) slots: &'a mut WaiterSlots<WeightOf<C>>,
    pub(crate) tally: &'a WaitCounters,
}

/// What a waiter finds at its place. Everything in it is dropped after the mutex is unlocked.
#[derive(Debug)]
#[expect(dead_code, reason = "some of it is carried out of the mutex only to be dropped there")]
pub(crate) enum WaiterPoll<T = ()> {
    /// Its turn has not come. The place knows its waker; here is the one from before, if another.
    Waiting(Option<Waker>),
    /// Its turn has not come, and the place knows another waker: look again with a clone.
    WantsWaker,
    /// Its wait is over.
    Over(Option<WaitOutcome>, Option<Left<T>>),
}

/// Grants that were taken back.
#[derive(Debug)]
pub(crate) struct Expired {
    pub(crate) turns: usize,
    /// When the oldest grant that still stands was made.
    pub(crate) oldest: Option<Instant>,
    /// Those whose turn it is now.
    pub(crate) next: Vec<Waker>,
}

/// A waiter that has left, with what it was told: a [`CancelOutcome`], or the answer if it asked once more.
#[derive(Debug)]
pub(crate) struct Departed<R, N, T> {
    pub(crate) told: R,
    /// Those whose turn it is now.
    pub(crate) next: N,
    _left: Left<T>,
}

impl<P> SemaphoreConfig<P> {
    pub(crate) fn why_full(&self) -> Refused {
        if self.bound == 0 { Refused::Busy } else { Refused::Full }
    }
}

impl WaitCounters {
    pub(crate) const fn new() -> Self {
        Self { queued: Counter::new(), cancelled: Counter::new() }
    }
}

impl<C: StateCell> WaitQueue<'_, C> {
    /// Takes what has come free, or the last place in the queue.
    ///
    /// The waker is taken only by who waits, so that another is dropped after the mutex is unlocked.
    pub(crate) fn join(&mut self, weight: WeightOf<C>, waker: &mut Option<Waker>) -> EnqueueOutcome {
        let mut seen = self.word.load();
        loop {
            if seen.is_closed() {
                return EnqueueOutcome::Refused(Refused::Closed);
            } else if seen.admits(self.rules.permits, weight) {
                match self.word.exchange(seen, seen.entered(weight)) {
                    Ok(()) => {
                        self.word.count_grant(seen);
                        return EnqueueOutcome::Entered;
                    }
                    Err(now) => seen = now,
                }
            } else if seen.waiting() >= self.rules.bound {
                return EnqueueOutcome::Refused(self.rules.why_full());
            } else if seen.waiting() > 0 {
                self.word.store(seen.joined());
                break;
            } else {
                // The first to wait: holders may still leave without the mutex.
                match self.word.exchange(seen, seen.joined()) {
                    Ok(()) => break,
                    Err(now) => seen = now,
                }
            }
        }
        self.tally.queued.add_alone(1);
        let waker = waker.take().expect("who joins brings a waker");
        EnqueueOutcome::Queued(self.line.join(self.slots, waker, weight))
    }

    /// Looks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    pub(crate) fn look(
        &mut self,
        ticket: &mut Option<WaiterId>,
        waker: &Waker,
        fresh: &mut Option<Waker>,
    ) -> WaiterPoll<WeightOf<C>> {
        let Some(place) = ticket.as_ref() else { return WaiterPoll::Over(None, None) };
        match self.slots.turn(place) {
            WaiterState::Waiting(known) if known.will_wake(waker) => WaiterPoll::Waiting(None),
            WaiterState::Waiting(known) => match fresh.take() {
                Some(fresh) => WaiterPoll::Waiting(Some(std::mem::replace(known, fresh))),
                None => WaiterPoll::WantsWaker,
            },
            turn => {
                let answer = WaitOutcome::of(turn);
                WaiterPoll::Over(answer, ticket.take().map(|ticket| self.line.leave(self.slots, ticket)))
            }
        }
    }

    /// Asks for the last time: leaves the queue, unless the turn has come.
    pub(crate) fn give_up(&mut self, ticket: WaiterId) -> Departed<Option<WaitOutcome>, NextOf<C>, WeightOf<C>> {
        let left = self.line.leave(self.slots, ticket);
        let next = match left.turn {
            WaiterState::Waiting(_) => self.stop_waiting(|| None),
            _ => NextOf::<C>::default(),
        };
        Departed { told: WaitOutcome::of(&left.turn), next, _left: left }
    }

    /// Gives up the place in the queue, or passes on what was set aside for it.
    pub(crate) fn leave(
        &mut self,
        ticket: WaiterId,
        now: impl Fn() -> Option<Instant>,
    ) -> Departed<CancelOutcome, NextOf<C>, WeightOf<C>> {
        let left = self.line.leave(self.slots, ticket);
        let (told, next) = match left.turn {
            WaiterState::Waiting(_) => {
                self.tally.cancelled.add_alone(1);
                (CancelOutcome::Waiting, self.stop_waiting(now))
            }
            WaiterState::Granted(_) => {
                self.tally.cancelled.add_alone(1);
                (CancelOutcome::PassedOn, self.hand_over(left.weight, now))
            }
            _ => (CancelOutcome::Refused, NextOf::<C>::default()),
        };
        Departed { told, next, _left: left }
    }

    /// What comes back goes to the next in line, who are returned, or becomes free.
    pub(crate) fn hand_over(&mut self, weight: WeightOf<C>, now: impl Fn() -> Option<Instant>) -> NextOf<C> {
        let seen = self.word.load();
        if seen.waiting() == 0 {
            // Nobody can start to wait meanwhile: that needs the mutex.
            self.word.free(weight);
            return NextOf::<C>::default();
        }
        self.grant(seen.left(weight), now)
    }

    /// Takes back every grant made at `limit` or before that nobody took, and passes it on.
    pub(crate) fn expire_grants(&mut self, limit: Instant, now: Instant) -> Expired {
        let mut next = Vec::new();
        let mut turns = 0;
        while let Some(weight) = self.line.expire_oldest(self.slots, limit) {
            turns += 1;
            next.extend(self.hand_over(weight, || Some(now)));
        }
        Expired { turns, oldest: self.line.oldest_grant(self.slots), next }
    }

    /// Refuses who waits, who is returned, and who comes.
    pub(crate) fn close(&mut self) -> Vec<Waker> {
        let waiting = self.line.close(self.slots);
        // Closed first: then the free path is shut for those who come, and the word changes only here.
        self.word.close();
        if !waiting.is_empty() {
            self.word.store(self.word.load().stopped_waiting(waiting.len()));
        }
        waiting
    }

    /// One that waited has left the line.
    fn stop_waiting(&mut self, now: impl Fn() -> Option<Instant>) -> NextOf<C> {
        self.grant(self.word.load().stopped_waiting(1), now)
    }

    /// Lets in from the front whoever `word` has room for, and makes it the lane's word. Only while someone waits.
    fn grant(&mut self, mut word: C::PermitState, now: impl Fn() -> Option<Instant>) -> NextOf<C> {
        let mut next = NextOf::<C>::default();
        let mut is_stored = false;
        while let Some(weight) = self.line.next_weight(self.slots, self.rules.order)
            && word.has_room(self.rules.permits, weight)
        {
            let seen = word;
            word = word.stopped_waiting(1).entered(weight);
            // With each turn: a count that is carried over must not run ahead of the word.
            self.word.store(word);
            self.word.count_grant(seen);
            is_stored = true;
            if let Some(waker) = self.line.grant_next(self.slots, self.rules.order, now()) {
                next.push(waker);
            }
        }
        if !is_stored {
            self.word.store(word);
        }
        next
    }
}

impl<C: StateCell<PermitState = TokenState>> WaitQueue<'_, C> {
    /// There are so many tokens more, or fewer. Returns those whose turn it is now.
    pub(crate) fn resize(&mut self, by: i64) -> NextOf<C> {
        let mut seen = self.word.load();
        loop {
            let resized = seen.resized(by);
            if seen.waiting() > 0 {
                return self.grant(resized, || None);
            }
            // Holders may leave, and callers enter, without the mutex.
            match self.word.exchange(seen, resized) {
                Ok(()) => return NextOf::<C>::default(),
                Err(now) => seen = now,
            }
        }
    }
}
