//! [`AtomicState`], the state of a semaphore that is acquired and released without its mutex while no caller is
//! waiting.

use super::outcome::{SemaphoreRefusal, SemaphoreSnapshot};
use super::permit_state::{GRANTED_MODULUS, PermitState};
use super::state::SemaphoreState;
use super::token_state::TokenState;
use super::wait_queue::StateCell;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::const_unless_loom;

/// The number of grants between two carries from the state to [`GrantTotal`]: a quarter of the modulus. A reader
/// reconstructs the full count unless a carry is late by three quarters of the modulus.
pub(super) const CARRY_EVERY: u64 = GRANTED_MODULUS / 4;

#[derive(Debug)]
pub(crate) struct AtomicState<S: SemaphoreState> {
    bits: AtomicU64,
    extra: S::Extra,
}

/// The number of grants when the count in the state last passed a multiple of [`CARRY_EVERY`].
#[derive(Debug)]
pub(crate) struct GrantTotal(AtomicU64);

impl AtomicState<PermitState> {
    const_unless_loom! {
        pub(super) fn new() -> Self {
            Self { bits: AtomicU64::new(0), extra: GrantTotal(AtomicU64::new(0)) }
        }
    }

    /// Returns `true` if the semaphore is closed and no permit is held but `forgotten` ones.
    pub(super) fn is_drained(&self, forgotten: u64) -> bool {
        // Acquire pairs with the Release of the last holder's release, so everything that the holder did is visible.
        let state = PermitState(self.bits.load(Ordering::Acquire));
        state.is_closed() && state.held() as u64 == forgotten
    }

    pub(super) fn snapshot(&self) -> SemaphoreSnapshot {
        let GrantTotal(total) = &self.extra;
        let mut carried = total.load(Ordering::Acquire);
        loop {
            let state = PermitState(self.bits.load(Ordering::Acquire));
            let again = total.load(Ordering::Acquire);
            if again == carried {
                return SemaphoreSnapshot {
                    held: state.held(),
                    waiting: state.waiting(),
                    granted: unwrap_granted(carried, state.granted()),
                    is_closed: state.is_closed(),
                };
            }
            carried = again;
        }
    }
}

impl AtomicState<TokenState> {
    const_unless_loom! {
        /// Creates a state in which all `total` tokens are available. `total` is at most
        /// [`MAX_TOKENS`](super::MAX_TOKENS).
        pub(super) fn with_total(total: usize) -> Self {
            Self { bits: AtomicU64::new(TokenState::all_available(total)), extra: AtomicU32::new(total as u32) }
        }
    }

    pub(super) fn total(&self) -> usize {
        self.extra.load(Ordering::Relaxed) as usize
    }

    /// Replaces the [`total`](Self::total) and returns the difference. Must be called with the mutex held.
    pub(super) fn replace_total(&self, total: usize) -> i64 {
        let before = self.total();
        self.extra.store(total as u32, Ordering::Relaxed);
        total as i64 - before as i64
    }
}

impl<S: SemaphoreState> AtomicState<S> {
    /// Acquires `weight` if it is available.
    #[inline]
    pub(super) fn try_acquire(&self, permits: S::Permits, weight: S::Weight) -> Result<(), SemaphoreRefusal> {
        let mut seen = self.load();
        while seen.admits(permits, weight) {
            match self.compare_exchange(seen, seen.acquired(weight)) {
                Ok(()) => {
                    self.count_grant(seen);
                    return Ok(());
                }
                Err(now) => seen = now,
            }
        }
        Err(if seen.is_closed() { SemaphoreRefusal::Closed } else { SemaphoreRefusal::Busy })
    }

    /// Releases `weight`, unless a caller is waiting or the semaphore is closed.
    #[inline]
    pub(super) fn try_release(&self, weight: S::Weight) -> bool {
        let mut seen = self.load();
        while seen.is_uncontended() {
            let next = seen.released(weight).to_bits();
            // Release pairs with the Acquire of the next caller's exchange.
            match self.bits.compare_exchange_weak(seen.to_bits(), next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = S::from_bits(now),
            }
        }
        false
    }
}

impl<S: SemaphoreState> StateCell for AtomicState<S> {
    type State = S;

    #[inline]
    fn load(&self) -> S {
        S::from_bits(self.bits.load(Ordering::Relaxed))
    }

    #[inline]
    fn compare_exchange(&self, seen: S, next: S) -> Result<(), S> {
        // Acquire pairs with the Release of the release that made the permit available.
        match self.bits.compare_exchange_weak(seen.to_bits(), next.to_bits(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => Err(S::from_bits(now)),
        }
    }

    /// Stores with Release: this store may end the release sequence of a released permit, so it must head a new one.
    /// The first waiter has read that release with Acquire, and the mutex makes it visible here.
    fn store(&self, next: S) {
        self.bits.store(next.to_bits(), Ordering::Release);
    }

    fn release(&self, weight: S::Weight) {
        self.bits.fetch_add(S::release_delta(weight), Ordering::Release);
    }

    fn close(&self) {
        self.bits.fetch_or(S::CLOSED, Ordering::Relaxed);
    }

    #[inline]
    fn count_grant(&self, seen: S) {
        S::count_grant(&self.extra, seen);
    }
}

impl GrantTotal {
    #[cold]
    pub(super) fn carry(&self, granted: u64) {
        let carried = self.0.load(Ordering::Relaxed);
        let full = unwrap_granted(carried, granted);
        // A larger difference means that this carry is late: a later carry has already been made.
        if full - carried <= GRANTED_MODULUS / 2 {
            self.0.fetch_max(full, Ordering::AcqRel);
        }
    }
}

/// Returns the full count whose low bits are `granted`, given that the count was `carried` earlier. RFC 3550, appendix
/// A.1, extends sequence numbers in the same way.
fn unwrap_granted(carried: u64, granted: u64) -> u64 {
    carried + granted.wrapping_sub(carried) % GRANTED_MODULUS
}

#[cfg(all(test, not(loom)))]
impl AtomicState<PermitState> {
    /// Adds `grants` to the count of grants without granting anything.
    pub(super) fn skip_grants(&self, grants: u64) {
        self.bits.fetch_add(grants << 40, Ordering::Relaxed);
    }

    pub(super) fn carry_grants(&self, granted: u64) {
        self.extra.carry(granted);
    }
}
