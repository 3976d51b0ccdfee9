//! [`AtomicState`], the word of a lane that is entered and left without its mutex as long as nobody waits.

use super::outcome::{Refused, SemaphoreSnapshot};
use super::permit_state::{GRANTED_MODULUS, PermitState};
use super::state::State;
use super::token_state::TokenState;
use super::wait_queue::StateCell;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::const_unless_loom;

/// How often the count of grants is carried over from the word. A quarter of the modulus: a reader reconstructs the
/// full count as long as a carry is not late by three quarters of it.
pub(super) const CARRY_EVERY: u64 = GRANTED_MODULUS / 4;

#[derive(Debug)]
pub(crate) struct AtomicState<W: State> {
    bits: AtomicU64,
    beside: W::Beside,
}

/// The number of grants as it was when the word's count last passed a multiple of [`CARRY_EVERY`].
#[derive(Debug)]
pub(crate) struct GrantedCarried(AtomicU64);

impl AtomicState<PermitState> {
    const_unless_loom! {
        pub(super) fn new() -> Self {
            Self { bits: AtomicU64::new(0), beside: GrantedCarried(AtomicU64::new(0)) }
        }
    }

    /// Closed, and the last holder has left.
    pub(super) fn is_drained(&self) -> bool {
        // Acquire pairs with the Release of the last holder's exit: what it did is visible.
        let word = PermitState(self.bits.load(Ordering::Acquire));
        word.is_closed() && word.held() == 0
    }

    pub(super) fn snapshot(&self) -> SemaphoreSnapshot {
        let GrantedCarried(granted_carried) = &self.beside;
        let mut carried = granted_carried.load(Ordering::Acquire);
        loop {
            let word = PermitState(self.bits.load(Ordering::Acquire));
            let again = granted_carried.load(Ordering::Acquire);
            if again == carried {
                return SemaphoreSnapshot {
                    held: word.held(),
                    waiting: word.waiting(),
                    granted: unwrap_granted(carried, word.granted()),
                    is_closed: word.is_closed(),
                };
            }
            carried = again;
        }
    }
}

impl AtomicState<TokenState> {
    const_unless_loom! {
        /// Every one of `total` tokens is free. `total` is at most [`MAX_TOKENS`](super::MAX_TOKENS).
        pub(super) fn with_total(total: usize) -> Self {
            Self { bits: AtomicU64::new(TokenState::all_free(total)), beside: AtomicU32::new(total as u32) }
        }
    }

    pub(super) fn total(&self) -> usize {
        self.beside.load(Ordering::Relaxed) as usize
    }

    /// Changes what [`total`](Self::total) says, under the mutex. Returns by how much.
    pub(super) fn replace_total(&self, total: usize) -> i64 {
        let before = self.total();
        self.beside.store(total as u32, Ordering::Relaxed);
        total as i64 - before as i64
    }
}

impl<W: State> AtomicState<W> {
    #[inline]
    pub(super) fn seen(&self) -> W {
        W::from_bits(self.bits.load(Ordering::Relaxed))
    }

    /// Takes as much as `weight` of what is free.
    #[inline]
    pub(super) fn try_enter(&self, permits: W::Permits, weight: W::Weight) -> Result<(), Refused> {
        let mut seen = self.seen();
        while seen.admits(permits, weight) {
            match self.exchange(seen, seen.entered(weight)) {
                Ok(()) => {
                    self.count_grant(seen);
                    return Ok(());
                }
                Err(now) => seen = now,
            }
        }
        Err(if seen.is_closed() { Refused::Closed } else { Refused::Busy })
    }

    /// Gives back as much as `weight`, unless someone waits for it or the lane is closed.
    #[inline]
    pub(super) fn try_exit(&self, weight: W::Weight) -> bool {
        let mut seen = self.seen();
        while seen.is_quiet() {
            let left = seen.left(weight);
            // Release pairs with the Acquire of the next caller's exchange.
            match self.bits.compare_exchange_weak(seen.bits(), left.bits(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = W::from_bits(now),
            }
        }
        false
    }
}

impl<W: State> StateCell for AtomicState<W> {
    type PermitState = W;

    #[inline]
    fn load(&self) -> W {
        self.seen()
    }

    #[inline]
    fn exchange(&self, seen: W, next: W) -> Result<(), W> {
        // Acquire pairs with the Release of the exit that freed the permit.
        match self.bits.compare_exchange_weak(seen.bits(), next.bits(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => Err(W::from_bits(now)),
        }
    }

    /// Release: this store may end the release sequence of an exit, so it heads one of its own. Whoever waits first
    /// has seen that exit with Acquire, and passed it on through the mutex.
    fn store(&self, next: W) {
        self.bits.store(next.bits(), Ordering::Release);
    }

    fn free(&self, weight: W::Weight) {
        self.bits.fetch_add(W::freed(weight), Ordering::Release);
    }

    fn close(&self) {
        self.bits.fetch_or(W::CLOSED, Ordering::Relaxed);
    }

    #[inline]
    fn count_grant(&self, seen: W) {
        W::count(&self.beside, seen);
    }
}

impl GrantedCarried {
    /// Carries the count over when the grant that followed `seen` filled a quarter of the word's count.
    #[inline]
    pub(super) fn count(&self, seen: PermitState) {
        let granted = (seen.granted() + 1) % GRANTED_MODULUS;
        if granted.is_multiple_of(CARRY_EVERY) {
            self.carry(granted);
        }
    }

    #[cold]
    fn carry(&self, granted: u64) {
        let carried = self.0.load(Ordering::Relaxed);
        let full = unwrap_granted(carried, granted);
        // Further ahead than that, this carry is late: one that came after it has already been made.
        if full - carried <= GRANTED_MODULUS / 2 {
            self.0.fetch_max(full, Ordering::AcqRel);
        }
    }
}

/// The full count that ends in `granted`, given that it was `carried` a while ago (as RFC 3550, appendix A.1, extends
/// a sequence number).
fn unwrap_granted(carried: u64, granted: u64) -> u64 {
    carried + granted.wrapping_sub(carried) % GRANTED_MODULUS
}

#[cfg(all(test, not(loom)))]
impl AtomicState<PermitState> {
    /// As if so many more turns had been granted.
    pub(super) fn skip_turns(&self, turns: u64) {
        self.bits.fetch_add(turns << 40, Ordering::Relaxed);
    }

    pub(super) fn carry_grants(&self, granted: u64) {
        self.beside.carry(granted);
    }
}
