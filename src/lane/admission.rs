//! [`Lane`], a lane of its own: one compare-exchange on its word enters it when it is free, another leaves it.
//!
//! Callers that find it full line up behind a mutex that the free path never touches; a permit that comes back while
//! someone waits goes to the next in line directly and is never free in between, so nobody barges. What is decided
//! under the mutex, and the invariants of it, are in [`Turns`]. A lane of permits is here, one of tokens in
//! [`token_lane`](super::token_lane).

#[cfg(all(test, loom))]
#[path = "loom_tests.rs"]
mod loom_tests;
#[cfg(all(test, not(loom)))]
#[path = "property_tests.rs"]
mod property_tests;

use std::task::Waker;

use tokio::time::Instant;

use super::atomic_word::AtomicWord;
#[cfg(all(test, not(loom)))]
use super::atomic_word::CARRY_EVERY;
use super::lane_word::LaneWord;
#[cfg(test)]
use super::order::Order;
use super::outcome::{Answer, Gone, Joined, Refused, Snapshot};
use super::queue::{Line, Slots, Ticket};
use super::turns::{Look, Rules, Tally, Turns};
use super::word::Word;
use crate::sync::{Mutex, const_unless_loom, lock};

#[derive(Debug)]
pub(crate) struct Lane<W: LaneWord = Word> {
    pub(super) word: AtomicWord<W>,
    rules: Rules<W::Permits>,
    queue: Mutex<WaitQueue<W::Weight>>,
    pub(crate) tally: Tally,
}

#[derive(Debug)]
struct WaitQueue<T> {
    line: Line,
    slots: Slots<T>,
}

impl Lane {
    const_unless_loom! {
        pub(crate) fn new(rules: Rules) -> Self {
            Self::with_word(AtomicWord::new(), rules)
        }
    }

    pub(crate) fn permits(&self) -> usize {
        self.rules.permits
    }

    /// Takes a free permit.
    #[inline]
    pub(crate) fn try_enter(&self) -> Result<(), Refused> {
        self.try_take(())
    }

    /// Takes a permit that has come free, or the last place in the queue.
    pub(crate) fn join(&self, waker: &Waker) -> Joined {
        self.line_up((), waker)
    }

    /// Gives a permit back, to the next in line if there is one.
    ///
    /// Returns `true` if it was the last one of a closed lane.
    #[inline]
    pub(crate) fn exit(&self, now: impl Fn() -> Option<Instant>) -> bool {
        if self.word.try_exit(()) { false } else { self.exit_slowly(now) }
    }

    #[cold]
    #[inline(never)]
    fn exit_slowly(&self, now: impl Fn() -> Option<Instant>) -> bool {
        match self.locked(|turns| turns.hand_over((), now)) {
            Some(waker) => {
                waker.wake();
                false
            }
            None => self.is_drained(),
        }
    }

    /// Takes back every grant made at `limit` or before that nobody took, and passes it on.
    ///
    /// Returns when the oldest grant that still stands was made.
    pub(crate) fn expire_grants(&self, limit: Instant, now: Instant) -> (usize, Option<Instant>) {
        let expired = self.locked(|turns| turns.expire_grants(limit, now));
        wake_all(expired.next);
        (expired.turns, expired.oldest)
    }

    /// Refuses who waits and who comes. Returns `true` if nobody holds a permit any more.
    pub(crate) fn close(&self) -> bool {
        self.refuse_all();
        self.is_drained()
    }

    /// Closed, and the last holder has left.
    pub(crate) fn is_drained(&self) -> bool {
        self.word.is_drained()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.word.snapshot()
    }
}

impl<W: LaneWord> Lane<W> {
    const_unless_loom! {
        pub(super) fn with_word(word: AtomicWord<W>, rules: Rules<W::Permits>) -> Self {
            let queue = Mutex::new(WaitQueue { line: Line::new(), slots: Slots::new() });
            Self { word, rules, queue, tally: Tally::new() }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.word.seen().is_closed()
    }

    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.word.seen().waiting()
    }

    /// Takes what is free.
    #[inline]
    pub(crate) fn try_take(&self, weight: W::Weight) -> Result<(), Refused> {
        self.word.try_enter(self.rules.permits, weight)
    }

    /// Takes what has come free, or the last place in the queue.
    pub(crate) fn line_up(&self, weight: W::Weight, waker: &Waker) -> Joined {
        // Refusing needs no mutex: the bound was reached at the moment of this load.
        let seen = self.word.seen();
        if seen.is_closed() {
            return Joined::Refused(Refused::Closed);
        }
        if !seen.admits(self.rules.permits, weight) && seen.waiting() >= self.rules.bound {
            return Joined::Refused(self.rules.why_full());
        }
        let mut waker = Some(waker.clone());
        self.locked(|turns| turns.join(weight, &mut waker))
    }

    /// Asks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    pub(crate) fn ask(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> Option<Answer> {
        let mut fresh = None;
        loop {
            match self.locked(|turns| turns.look(ticket, waker, &mut fresh)) {
                Look::Waiting(_) => return None,
                Look::WantsWaker => fresh = Some(waker.clone()),
                Look::Over(answer, _) => return answer,
            }
        }
    }

    /// Asks for the last time: leaves the queue, unless the turn has come.
    pub(crate) fn give_up(&self, ticket: Ticket) -> Option<Answer> {
        let departure = self.locked(|turns| turns.give_up(ticket));
        wake_all(departure.next);
        departure.told
    }

    /// Gives up the place in the queue, or passes on what was set aside for it.
    pub(crate) fn leave(&self, ticket: Ticket, now: impl Fn() -> Option<Instant>) -> Gone {
        let departure = self.locked(|turns| turns.leave(ticket, now));
        wake_all(departure.next);
        departure.told
    }

    /// Refuses who waits and who comes.
    pub(super) fn refuse_all(&self) {
        wake_all(self.locked(|turns| turns.close()));
    }

    /// Decides under the mutex. What it returns is dropped without it.
    pub(super) fn locked<R>(&self, decide: impl FnOnce(&mut Turns<'_, AtomicWord<W>>) -> R) -> R {
        let mut queue = lock(&self.queue);
        let WaitQueue { line, slots } = &mut *queue;
        decide(&mut Turns { rules: &self.rules, word: &self.word, line, slots, tally: &self.tally })
    }
}

/// Wakes every one of them, though one may panic: a waker is foreign code.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    struct Rest<I: Iterator<Item = Waker>>(I);
    impl<I: Iterator<Item = Waker>> Drop for Rest<I> {
        fn drop(&mut self) {
            self.0.by_ref().for_each(Waker::wake);
        }
    }

    let mut rest = Rest(wakers.into_iter());
    rest.0.by_ref().for_each(Waker::wake);
}
