//! [`Semaphore`], a lane of its own: one compare-exchange on its word enters it when it is free, another leaves it.
//!
//! Callers that find it full line up behind a mutex that the free path never touches; a permit that comes back while
//! someone waits goes to the next in line directly and is never free in between, so nobody barges. What is decided
//! under the mutex, and the invariants of it, are in [`WaitQueue`]. A lane of permits is here, one of tokens in
//! [`token_lane`](super::token_semaphore).

#[cfg(all(test, loom))]
#[path = "loom_tests.rs"]
mod loom_tests;
#[cfg(all(test, not(loom)))]
#[path = "property_tests.rs"]
mod property_tests;

use std::task::Waker;

use tokio::time::Instant;

use super::atomic_state::AtomicState;
#[cfg(all(test, not(loom)))]
use super::atomic_state::CARRY_EVERY;
#[cfg(test)]
use super::order::Order;
use super::outcome::{CancelOutcome, EnqueueOutcome, Refused, SemaphoreSnapshot, WaitOutcome};
use super::permit_state::PermitState;
use super::state::State;
use super::wait_queue::{SemaphoreConfig, WaitCounters, WaitQueue, WaiterPoll};
use super::waiters::{WaiterId, WaiterList, WaiterSlots};
use crate::sync::{Mutex, const_unless_loom, lock};

#[derive(Debug)]
pub(crate) struct Semaphore<W: State = PermitState> {
    pub(super) word: AtomicState<W>,
    rules: SemaphoreConfig<W::Permits>,
    queue: Mutex<Waiters<W::Weight>>,
    pub(crate) tally: WaitCounters,
}

#[derive(Debug)]
struct Waiters<T> {
    line: WaiterList,
    slots: WaiterSlots<T>,
}

impl Semaphore {
    const_unless_loom! {
        pub(crate) fn new(rules: SemaphoreConfig) -> Self {
            Self::with_word(AtomicState::new(), rules)
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
    pub(crate) fn join(&self, waker: &Waker) -> EnqueueOutcome {
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

    pub(crate) fn snapshot(&self) -> SemaphoreSnapshot {
        self.word.snapshot()
    }
}

impl<W: State> Semaphore<W> {
    const_unless_loom! {
        pub(super) fn with_word(word: AtomicState<W>, rules: SemaphoreConfig<W::Permits>) -> Self {
            let queue = Mutex::new(Waiters { line: WaiterList::new(), slots: WaiterSlots::new() });
            Self { word, rules, queue, tally: WaitCounters::new() }
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
    pub(crate) fn line_up(&self, weight: W::Weight, waker: &Waker) -> EnqueueOutcome {
        // Refusing needs no mutex: the bound was reached at the moment of this load.
        let seen = self.word.seen();
        if seen.is_closed() {
            return EnqueueOutcome::Refused(Refused::Closed);
        }
        if !seen.admits(self.rules.permits, weight) && seen.waiting() >= self.rules.bound {
            return EnqueueOutcome::Refused(self.rules.why_full());
        }
        let mut waker = Some(waker.clone());
        self.locked(|turns| turns.join(weight, &mut waker))
    }

    /// Asks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    pub(crate) fn ask(&self, ticket: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome> {
        let mut fresh = None;
        loop {
            match self.locked(|turns| turns.look(ticket, waker, &mut fresh)) {
                WaiterPoll::Waiting(_) => return None,
                WaiterPoll::WantsWaker => fresh = Some(waker.clone()),
                WaiterPoll::Over(answer, _) => return answer,
            }
        }
    }

    /// Asks for the last time: leaves the queue, unless the turn has come.
    pub(crate) fn give_up(&self, ticket: WaiterId) -> Option<WaitOutcome> {
        let departure = self.locked(|turns| turns.give_up(ticket));
        wake_all(departure.next);
        departure.told
    }

    /// Gives up the place in the queue, or passes on what was set aside for it.
    pub(crate) fn leave(&self, ticket: WaiterId, now: impl Fn() -> Option<Instant>) -> CancelOutcome {
        let departure = self.locked(|turns| turns.leave(ticket, now));
        wake_all(departure.next);
        departure.told
    }

    /// Refuses who waits and who comes.
    pub(super) fn refuse_all(&self) {
        wake_all(self.locked(|turns| turns.close()));
    }

    /// Decides under the mutex. What it returns is dropped without it.
    pub(super) fn locked<R>(&self, decide: impl FnOnce(&mut WaitQueue<'_, AtomicState<W>>) -> R) -> R {
        let mut queue = lock(&self.queue);
        let Waiters { line, slots } = &mut *queue;
        decide(&mut WaitQueue { rules: &self.rules, word: &self.word, line, slots, tally: &self.tally })
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
