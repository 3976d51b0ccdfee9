//! [`Turns`], the algorithm: who enters, waits, is handed a permit, gives up, decided while a lane's mutex is held.
//!
//! It stands between two shells. [`Lane`](super::Lane) keeps its word in an atomic, so that a free lane is entered and
//! left without the mutex; the lanes of a keyed guard keep theirs behind the mutex of their shard.
//!
//! # Invariants
//!
//! 1. `word.waiting` changes only under the mutex, where it equals the number of waiters in the line.
//! 2. While `word.waiting > 0`, every permit is held or set aside for a waiter, and the word changes only under the
//!    mutex: who comes waits, who leaves hands over. So there a load sees the latest word, and a store replaces it.
//! 3. A permit set aside counts as held. Its waiter takes it, or passes it on when it leaves.
//! 4. A waker is cloned, dropped and woken outside of the mutex: it is foreign code.

use std::task::Waker;

use tokio::time::Instant;

use super::order::Order;
use super::outcome::{Answer, Gone, Joined, Refused};
use super::queue::{Left, Line, Slots, Ticket, Turn};
use super::word::Word;
use crate::counter::Counter;

/// What does not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// From 1 to [`MAX_PERMITS`](super::MAX_PERMITS).
    pub(crate) permits: usize,
    /// The most callers that may wait, from 0 to [`MAX_WAITING`](super::MAX_WAITING).
    pub(crate) bound: usize,
    pub(crate) order: Order,
}

/// Counted under the mutex.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Callers that had to wait.
    pub(crate) queued: Counter,
    /// Callers that left while they waited.
    pub(crate) cancelled: Counter,
}

/// Where a lane's word is.
pub(crate) trait WordCell {
    fn load(&self) -> Word;

    /// Replaces the word if it is still the one `seen`. What the last holder did is visible afterwards.
    fn exchange(&self, seen: Word, next: Word) -> Result<(), Word>;

    /// Replaces the word, under the mutex and while someone waits (invariant 2).
    fn store(&self, next: Word);

    /// A permit becomes free, under the mutex and while nobody waits.
    fn free_one(&self);

    fn close(&self);

    /// Counts the grant that followed `seen`.
    fn count_grant(&self, seen: Word);
}

/// A lane whose mutex is held.
pub(crate) struct Turns<'a, W> {
    pub(crate) rules: &'a Rules,
    pub(crate) word: W,
    pub(crate) line: &'a mut Line,
    pub(crate) slots: &'a mut Slots,
    pub(crate) tally: &'a Tally,
}

/// What a waiter finds at its place. Everything in it is dropped after the mutex is unlocked.
#[derive(Debug)]
#[expect(dead_code, reason = "some of it is carried out of the mutex only to be dropped there")]
pub(crate) enum Look {
    /// Its turn has not come. The place knows its waker; here is the one from before, if another.
    Waiting(Option<Waker>),
    /// Its turn has not come, and the place knows another waker: look again with a clone.
    WantsWaker,
    /// Its wait is over.
    Over(Option<Answer>, Option<Left>),
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

/// A waiter that has left.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) gone: Gone,
    pub(crate) next: Option<Waker>,
    _left: Left,
}

impl Rules {
    pub(crate) fn why_full(&self) -> Refused {
        if self.bound == 0 { Refused::Busy } else { Refused::Full }
    }
}

impl Tally {
    pub(crate) const fn new() -> Self {
        Self { queued: Counter::new(), cancelled: Counter::new() }
    }
}

impl<W: WordCell> Turns<'_, W> {
    /// Takes a permit that has come free, or the last place in the queue.
    ///
    /// The waker is taken only by who waits, so that another is dropped after the mutex is unlocked.
    pub(crate) fn join(&mut self, waker: &mut Option<Waker>) -> Joined {
        let mut seen = self.word.load();
        loop {
            if seen.is_closed() {
                return Joined::Refused(Refused::Closed);
            } else if seen.admits(self.rules.permits) {
                match self.word.exchange(seen, seen.entered()) {
                    Ok(()) => {
                        self.word.count_grant(seen);
                        return Joined::Entered;
                    }
                    Err(now) => seen = now,
                }
            } else if seen.waiting() >= self.rules.bound {
                return Joined::Refused(self.rules.why_full());
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
        Joined::Queued(self.line.join(self.slots, waker))
    }

    /// Looks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    pub(crate) fn look(&mut self, ticket: &mut Option<Ticket>, waker: &Waker, fresh: &mut Option<Waker>) -> Look {
        let Some(place) = ticket.as_ref() else { return Look::Over(None, None) };
        match self.slots.turn(place) {
            Turn::Waiting(known) if known.will_wake(waker) => Look::Waiting(None),
            Turn::Waiting(known) => match fresh.take() {
                Some(fresh) => Look::Waiting(Some(std::mem::replace(known, fresh))),
                None => Look::WantsWaker,
            },
            turn => {
                let answer = Answer::of(turn);
                Look::Over(answer, ticket.take().map(|ticket| self.line.leave(self.slots, ticket)))
            }
        }
    }

    /// Asks for the last time: leaves the queue, unless the turn has come.
    pub(crate) fn give_up(&mut self, ticket: Ticket) -> (Option<Answer>, Left) {
        let left = self.line.leave(self.slots, ticket);
        if matches!(left.turn, Turn::Waiting(_)) {
            self.word.store(self.word.load().stopped_waiting(1));
        }
        (Answer::of(&left.turn), left)
    }

    /// Gives up the place in the queue, or passes on the permit that was set aside for it.
    pub(crate) fn leave(&mut self, ticket: Ticket, now: impl FnOnce() -> Option<Instant>) -> Departure {
        let left = self.line.leave(self.slots, ticket);
        let (gone, next) = match left.turn {
            Turn::Waiting(_) => {
                self.tally.cancelled.add_alone(1);
                self.word.store(self.word.load().stopped_waiting(1));
                (Gone::Waiting, None)
            }
            Turn::Granted(_) => {
                self.tally.cancelled.add_alone(1);
                (Gone::PassedOn, self.hand_over(now))
            }
            _ => (Gone::Refused, None),
        };
        Departure { gone, next, _left: left }
    }

    /// The permit goes to the next in line, who is returned, or becomes free.
    pub(crate) fn hand_over(&mut self, now: impl FnOnce() -> Option<Instant>) -> Option<Waker> {
        let seen = self.word.load();
        if seen.waiting() == 0 {
            // Nobody can start to wait meanwhile: that needs the mutex.
            self.word.free_one();
            return None;
        }
        self.word.store(seen.handed_over());
        self.word.count_grant(seen);
        self.line.grant_next(self.slots, self.rules.order, now())
    }

    /// Takes back every grant made at `limit` or before that nobody took, and passes it on.
    pub(crate) fn expire_grants(&mut self, limit: Instant, now: Instant) -> Expired {
        let mut next = Vec::new();
        let mut turns = 0;
        while self.line.expire_oldest(self.slots, limit) {
            turns += 1;
            next.extend(self.hand_over(|| Some(now)));
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
}
