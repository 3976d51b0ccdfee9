//! [`Lane`], the algorithm.
//!
//! A free lane is entered with one compare-exchange on [`Word`] and left with another. Callers that find it full
//! line up in [`WaitQueue`], behind a mutex that the free path never touches; a permit that comes back while someone
//! waits goes to the next in line directly and is never free in between, so nobody barges.
//!
//! # Invariants
//!
//! 1. `word.waiting` changes only under the mutex, where it equals the number of waiters in the queue.
//! 2. While `word.waiting > 0`, every permit is held or set aside for a waiter, and the word changes only under the
//!    mutex: who comes waits, who leaves hands over. So there a load sees the latest word, and a store replaces it.
//! 3. A permit set aside counts as held. Its waiter takes it, or passes it on when it leaves.
//! 4. A waker is cloned, dropped and woken outside of the mutex: it is foreign code.

#[cfg(all(test, loom))]
#[path = "loom_tests.rs"]
mod loom_tests;
#[cfg(all(test, not(loom)))]
#[path = "property_tests.rs"]
mod property_tests;

use std::task::Waker;
use std::vec;

use tokio::time::Instant;

use super::order::Order;
use super::outcome::{Answer, Gone, Joined, Refused, Snapshot};
use super::queue::{Ticket, Turn, WaitQueue};
use super::word::{GRANTED_MODULUS, Word};
use crate::counter::Counter;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock;

/// How often the count of grants is carried over from the word. A quarter of the modulus: a reader reconstructs the
/// full count as long as a carry is not late by three quarters of it.
const CARRY_EVERY: u64 = GRANTED_MODULUS / 4;

#[derive(Debug)]
pub(crate) struct Lane {
    word: AtomicU64,
    /// The number of grants as it was when the word's count last passed a multiple of [`CARRY_EVERY`].
    granted_carried: AtomicU64,
    permits: usize,
    /// The most callers that may wait.
    bound: usize,
    order: Order,
    queue: Mutex<WaitQueue>,
    /// Callers that had to wait. Counted under the mutex.
    pub(crate) queued: Counter,
    /// Callers that left while they waited. Counted under the mutex.
    pub(crate) cancelled: Counter,
}

macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        $(#[$meta])* #[cfg(not(loom))] $vis const fn $($rest)*
        $(#[$meta])* #[cfg(loom)] $vis fn $($rest)*
    };
}

impl Lane {
    const_unless_loom! {
        /// `permits` from 1 to [`MAX_PERMITS`], `bound` from 0 to [`MAX_WAITING`].
        pub(crate) fn new(permits: usize, bound: usize, order: Order) -> Self {
            Self {
                word: AtomicU64::new(0),
                granted_carried: AtomicU64::new(0),
                permits,
                bound,
                order,
                queue: Mutex::new(WaitQueue::new()),
                queued: Counter::new(),
                cancelled: Counter::new(),
            }
        }
    }

    pub(crate) fn permits(&self) -> usize {
        self.permits
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.load().is_closed()
    }

    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.load().waiting()
    }

    /// Takes a free permit.
    #[inline]
    pub(crate) fn try_enter(&self) -> Result<(), Refused> {
        let mut seen = self.load();
        while seen.admits(self.permits) {
            match self.exchange(seen, seen.entered()) {
                Ok(()) => {
                    self.count_grant(seen);
                    return Ok(());
                }
                Err(now) => seen = now,
            }
        }
        Err(if seen.is_closed() { Refused::Closed } else { Refused::Busy })
    }

    /// Takes a permit that has come free, or the last place in the queue.
    pub(crate) fn join(&self, waker: &Waker) -> Joined {
        // Refusing needs no mutex: the bound was reached at the moment of this load.
        let seen = self.load();
        if seen.is_closed() {
            return Joined::Refused(Refused::Closed);
        }
        if !seen.admits(self.permits) && seen.waiting() >= self.bound {
            return Joined::Refused(self.why_full());
        }
        let waker = waker.clone();
        let mut queue = lock(&self.queue);
        let mut seen = self.load();
        loop {
            if seen.is_closed() {
                return Joined::Refused(Refused::Closed);
            } else if seen.admits(self.permits) {
                match self.exchange(seen, seen.entered()) {
                    Ok(()) => {
                        self.count_grant(seen);
                        return Joined::Entered;
                    }
                    Err(now) => seen = now,
                }
            } else if seen.waiting() >= self.bound {
                return Joined::Refused(self.why_full());
            } else if seen.waiting() > 0 {
                self.store(seen.joined());
                break;
            } else {
                // The first to wait: holders may still leave without the mutex.
                match self.exchange(seen, seen.joined()) {
                    Ok(()) => break,
                    Err(now) => seen = now,
                }
            }
        }
        self.queued.add_alone(1);
        Joined::Queued(queue.join(waker))
    }

    /// Asks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    pub(crate) fn ask(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> Option<Answer> {
        let mut fresh = None;
        loop {
            let mut queue = lock(&self.queue);
            let place = ticket.as_ref()?;
            match queue.turn(place) {
                Turn::Waiting(known) if known.will_wake(waker) => return None,
                Turn::Waiting(known) => match fresh.take() {
                    Some(fresh) => {
                        let stale = std::mem::replace(known, fresh);
                        drop(queue);
                        drop(stale);
                        return None;
                    }
                    // Cloned outside of the mutex, then the turn is looked at again.
                    None => {
                        drop(queue);
                        fresh = Some(waker.clone());
                    }
                },
                turn => {
                    let answer = Answer::of(turn);
                    let left = ticket.take().map(|ticket| queue.leave(ticket));
                    drop(queue);
                    drop(left);
                    return answer;
                }
            }
        }
    }

    /// Asks for the last time: leaves the queue, unless the turn has come.
    pub(crate) fn give_up(&self, ticket: Ticket) -> Option<Answer> {
        let mut queue = lock(&self.queue);
        let left = queue.leave(ticket);
        if matches!(left.turn, Turn::Waiting(_)) {
            self.store(self.load().stopped_waiting(1));
        }
        drop(queue);
        Answer::of(&left.turn)
    }

    /// Gives up the place in the queue, or passes on the permit that was set aside for it.
    pub(crate) fn leave(&self, ticket: Ticket, now: impl FnOnce() -> Option<Instant>) -> Gone {
        let mut queue = lock(&self.queue);
        let left = queue.leave(ticket);
        let (gone, next) = match left.turn {
            Turn::Waiting(_) => {
                self.cancelled.add_alone(1);
                self.store(self.load().stopped_waiting(1));
                (Gone::Waiting, None)
            }
            Turn::Granted(_) => {
                self.cancelled.add_alone(1);
                (Gone::PassedOn, self.hand_over(&mut queue, now))
            }
            _ => (Gone::Refused, None),
        };
        drop(queue);
        drop(left);
        if let Some(waker) = next {
            waker.wake();
        }
        gone
    }

    /// Gives a permit back, to the next in line if there is one.
    ///
    /// Returns `true` if it was the last one of a closed lane.
    #[inline]
    pub(crate) fn exit(&self, now: impl FnOnce() -> Option<Instant>) -> bool {
        let mut seen = self.load();
        while seen.is_quiet() {
            // Release pairs with the Acquire of the next caller's exchange.
            match self.word.compare_exchange_weak(seen.0, seen.left().0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return false,
                Err(now) => seen = Word(now),
            }
        }
        self.exit_slowly(now)
    }

    #[cold]
    #[inline(never)]
    fn exit_slowly(&self, now: impl FnOnce() -> Option<Instant>) -> bool {
        let mut queue = lock(&self.queue);
        let next = self.hand_over(&mut queue, now);
        drop(queue);
        match next {
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
        let mut wakers = Vec::new();
        let mut expired = 0;
        let mut queue = lock(&self.queue);
        while queue.expire_oldest(limit) {
            expired += 1;
            wakers.extend(self.hand_over(&mut queue, || Some(now)));
        }
        let oldest = queue.oldest_grant();
        drop(queue);
        wake_all(wakers);
        (expired, oldest)
    }

    /// Refuses who waits and who comes. Returns `true` if nobody holds a permit any more.
    pub(crate) fn close(&self) -> bool {
        let mut queue = lock(&self.queue);
        let wakers = queue.close();
        // Closed first: then the free path is shut for those who come, and the word changes only here.
        self.word.fetch_or(Word::CLOSED, Ordering::Relaxed);
        if !wakers.is_empty() {
            self.store(self.load().stopped_waiting(wakers.len()));
        }
        drop(queue);
        wake_all(wakers);
        self.is_drained()
    }

    /// Closed, and the last holder has left.
    pub(crate) fn is_drained(&self) -> bool {
        // Acquire pairs with the Release of the last holder's exit: what it did is visible.
        let word = Word(self.word.load(Ordering::Acquire));
        word.is_closed() && word.held() == 0
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut carried = self.granted_carried.load(Ordering::Acquire);
        loop {
            let word = Word(self.word.load(Ordering::Acquire));
            let again = self.granted_carried.load(Ordering::Acquire);
            if again == carried {
                return Snapshot {
                    held: word.held(),
                    waiting: word.waiting(),
                    granted: unwrap_granted(carried, word.granted()),
                    is_closed: word.is_closed(),
                };
            }
            carried = again;
        }
    }

    /// The permit goes to the next in line, or becomes free.
    fn hand_over(&self, queue: &mut WaitQueue, now: impl FnOnce() -> Option<Instant>) -> Option<Waker> {
        let seen = self.load();
        if seen.waiting() == 0 {
            // Nobody can start to wait meanwhile: that needs the mutex.
            self.word.fetch_sub(Word::ONE_HELD, Ordering::Release);
            return None;
        }
        self.store(seen.handed_over());
        self.count_grant(seen);
        queue.grant_next(self.order, now())
    }

    #[inline]
    fn load(&self) -> Word {
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Replaces the word, under the mutex and while someone waits (invariant 2).
    ///
    /// Release: this store may end the release sequence of an exit, so it heads one of its own. Whoever waits first
    /// has seen that exit with Acquire, and passed it on through the mutex.
    fn store(&self, word: Word) {
        self.word.store(word.0, Ordering::Release);
    }

    fn why_full(&self) -> Refused {
        if self.bound == 0 { Refused::Busy } else { Refused::Full }
    }

    #[inline]
    fn exchange(&self, seen: Word, next: Word) -> Result<(), Word> {
        // Acquire pairs with the Release of the exit that freed the permit.
        match self.word.compare_exchange_weak(seen.0, next.0, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => Err(Word(now)),
        }
    }

    /// Carries the count over when the grant that followed `seen` filled a quarter of the word's count.
    #[inline]
    fn count_grant(&self, seen: Word) {
        let granted = (seen.granted() + 1) % GRANTED_MODULUS;
        if granted.is_multiple_of(CARRY_EVERY) {
            self.carry_grants(granted);
        }
    }

    #[cold]
    fn carry_grants(&self, granted: u64) {
        let carried = self.granted_carried.load(Ordering::Relaxed);
        let full = unwrap_granted(carried, granted);
        // Further ahead than that, this carry is late: one that came after it has already been made.
        if full - carried <= GRANTED_MODULUS / 2 {
            self.granted_carried.fetch_max(full, Ordering::AcqRel);
        }
    }
}

/// Wakes every one of them, though one may panic: a waker is foreign code.
fn wake_all(wakers: Vec<Waker>) {
    struct Rest(vec::IntoIter<Waker>);
    impl Drop for Rest {
        fn drop(&mut self) {
            self.0.by_ref().for_each(Waker::wake);
        }
    }

    let mut rest = Rest(wakers.into_iter());
    rest.0.by_ref().for_each(Waker::wake);
}

/// The full count that ends in `granted`, given that it was `carried` a while ago (as RFC 3550, appendix A.1, extends
/// a sequence number).
fn unwrap_granted(carried: u64, granted: u64) -> u64 {
    carried + granted.wrapping_sub(carried) % GRANTED_MODULUS
}
