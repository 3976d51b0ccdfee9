//! [`AtomicWord`], the word of a lane that is entered and left without its mutex as long as nobody waits.

use super::outcome::{Refused, Snapshot};
use super::turns::WordCell;
use super::word::{GRANTED_MODULUS, Word};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::const_unless_loom;

/// How often the count of grants is carried over from the word. A quarter of the modulus: a reader reconstructs the
/// full count as long as a carry is not late by three quarters of it.
pub(super) const CARRY_EVERY: u64 = GRANTED_MODULUS / 4;

#[derive(Debug)]
pub(super) struct AtomicWord {
    word: AtomicU64,
    /// The number of grants as it was when the word's count last passed a multiple of [`CARRY_EVERY`].
    granted_carried: AtomicU64,
}

impl AtomicWord {
    const_unless_loom! {
        pub(super) fn new() -> Self {
            Self { word: AtomicU64::new(0), granted_carried: AtomicU64::new(0) }
        }
    }

    #[inline]
    pub(super) fn seen(&self) -> Word {
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Takes one of `permits`, if one is free.
    #[inline]
    pub(super) fn try_enter(&self, permits: usize) -> Result<(), Refused> {
        let mut seen = self.seen();
        while seen.admits(permits) {
            match self.try_exchange(seen, seen.entered()) {
                Ok(()) => {
                    self.count(seen);
                    return Ok(());
                }
                Err(now) => seen = now,
            }
        }
        Err(if seen.is_closed() { Refused::Closed } else { Refused::Busy })
    }

    /// Gives a permit back, unless someone waits for it or the lane is closed.
    #[inline]
    pub(super) fn try_exit(&self) -> bool {
        let mut seen = self.seen();
        while seen.is_quiet() {
            // Release pairs with the Acquire of the next caller's exchange.
            match self.word.compare_exchange_weak(seen.0, seen.left().0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = Word(now),
            }
        }
        false
    }

    /// Closed, and the last holder has left.
    pub(super) fn is_drained(&self) -> bool {
        // Acquire pairs with the Release of the last holder's exit: what it did is visible.
        let word = Word(self.word.load(Ordering::Acquire));
        word.is_closed() && word.held() == 0
    }

    pub(super) fn snapshot(&self) -> Snapshot {
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

    #[inline]
    fn try_exchange(&self, seen: Word, next: Word) -> Result<(), Word> {
        // Acquire pairs with the Release of the exit that freed the permit.
        match self.word.compare_exchange_weak(seen.0, next.0, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => Err(Word(now)),
        }
    }

    /// Carries the count over when the grant that followed `seen` filled a quarter of the word's count.
    #[inline]
    fn count(&self, seen: Word) {
        let granted = (seen.granted() + 1) % GRANTED_MODULUS;
        if granted.is_multiple_of(CARRY_EVERY) {
            self.carry_grants(granted);
        }
    }

    #[cold]
    pub(super) fn carry_grants(&self, granted: u64) {
        let carried = self.granted_carried.load(Ordering::Relaxed);
        let full = unwrap_granted(carried, granted);
        // Further ahead than that, this carry is late: one that came after it has already been made.
        if full - carried <= GRANTED_MODULUS / 2 {
            self.granted_carried.fetch_max(full, Ordering::AcqRel);
        }
    }
}

impl WordCell for &AtomicWord {
    fn load(&self) -> Word {
        self.seen()
    }

    fn exchange(&self, seen: Word, next: Word) -> Result<(), Word> {
        self.try_exchange(seen, next)
    }

    /// Release: this store may end the release sequence of an exit, so it heads one of its own. Whoever waits first
    /// has seen that exit with Acquire, and passed it on through the mutex.
    fn store(&self, next: Word) {
        self.word.store(next.0, Ordering::Release);
    }

    fn free_one(&self) {
        self.word.fetch_sub(Word::ONE_HELD, Ordering::Release);
    }

    fn close(&self) {
        self.word.fetch_or(Word::CLOSED, Ordering::Relaxed);
    }

    fn count_grant(&self, seen: Word) {
        self.count(seen);
    }
}

/// The full count that ends in `granted`, given that it was `carried` a while ago (as RFC 3550, appendix A.1, extends
/// a sequence number).
fn unwrap_granted(carried: u64, granted: u64) -> u64 {
    carried + granted.wrapping_sub(carried) % GRANTED_MODULUS
}

#[cfg(all(test, not(loom)))]
impl AtomicWord {
    /// As if so many more turns had been granted.
    pub(super) fn skip_turns(&self, turns: u64) {
        self.word.fetch_add(turns << 40, Ordering::Relaxed);
    }
}
