//! [`PermitState`], the state of a semaphore of permits: one load decides whether a caller is admitted, and one
//! compare-exchange admits it.
//!
//! ```text
//!  63        40 39 38       16 15        0
//! ┌────────────┬──┬───────────┬───────────┐
//! │  granted   │ C│  waiting  │   held    │
//! └────────────┴──┴───────────┴───────────┘
//! ```
//!
//! `granted` counts every permit given out, modulo 2²⁴. Counting costs nothing, since the exchange that takes the
//! permit also counts it. The count occupies the top bits, so that its overflow does not carry into another field. One
//! comparison of the bits below it decides whether a caller is admitted: if a caller is waiting or the semaphore is
//! closed (`C`), the lower 40 bits are larger than any number of permits.

use std::task::Waker;

use super::atomic_state::{CARRY_EVERY, GrantTotal};
use super::state::SemaphoreState;

/// The maximum number of permits of a semaphore.
pub(crate) const MAX_PERMITS: usize = (1 << 16) - 1;
/// The maximum number of callers that can wait for a semaphore.
pub(crate) const MAX_WAITING: usize = (1 << 23) - 1;
/// `granted` counts modulo this number.
pub(crate) const GRANTED_MODULUS: u64 = 1 << 24;

const ONE_HELD: u64 = 1;
const ONE_WAITING: u64 = 1 << 16;
const CLOSED: u64 = 1 << 39;
const ONE_GRANTED: u64 = 1 << 40;
const BELOW_GRANTED: u64 = ONE_GRANTED - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PermitState(pub(crate) u64);

impl PermitState {
    pub(crate) fn held(self) -> usize {
        (self.0 as usize) & MAX_PERMITS
    }

    pub(crate) fn granted(self) -> u64 {
        self.0 >> 40
    }

    /// Returns `true` if no permit is held and no caller is waiting.
    pub(crate) fn is_idle(self) -> bool {
        self.0 & (CLOSED - 1) == 0
    }

    pub(crate) fn closed(self) -> Self {
        Self(self.0 | CLOSED)
    }
}

impl SemaphoreState for PermitState {
    type Weight = ();
    type Permits = usize;
    type Wakers = Option<Waker>;
    type Extra = GrantTotal;

    const CLOSED: u64 = CLOSED;

    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn to_bits(self) -> u64 {
        self.0
    }

    fn waiting(self) -> usize {
        (self.0 >> 16) as usize & MAX_WAITING
    }

    #[inline]
    fn admits(self, permits: usize, (): ()) -> bool {
        (self.0 & BELOW_GRANTED) < permits as u64
    }

    fn has_room(self, permits: usize, (): ()) -> bool {
        self.held() < permits
    }

    #[inline]
    fn is_uncontended(self) -> bool {
        (self.0 & BELOW_GRANTED) < ONE_WAITING
    }

    #[inline]
    fn acquired(self, (): ()) -> Self {
        Self(self.0.wrapping_add(ONE_HELD + ONE_GRANTED))
    }

    #[inline]
    fn release_delta((): ()) -> u64 {
        ONE_HELD.wrapping_neg()
    }

    fn enqueued(self) -> Self {
        Self(self.0 + ONE_WAITING)
    }

    fn dequeued(self, waiters: usize) -> Self {
        Self(self.0 - ONE_WAITING * waiters as u64)
    }

    /// Carries the count over to `total` if the grant that replaced `seen` completed a quarter of the modulus.
    #[inline]
    fn count_grant(total: &GrantTotal, seen: Self) {
        let granted = (seen.granted() + 1) % GRANTED_MODULUS;
        if granted.is_multiple_of(CARRY_EVERY) {
            total.carry(granted);
        }
    }
}
