//! The lane's state in one word: who may enter is decided by one load, and done by one compare-exchange.
//!
//! ```text
//!  63        40 39 38       16 15        0
//! ┌────────────┬──┬───────────┬───────────┐
//! │  granted   │ C│  waiting  │   held    │
//! └────────────┴──┴───────────┴───────────┘
//! ```
//!
//! `granted` counts every turn, modulo 2²⁴: counting costs nothing, since it rides on the exchange that takes the
//! permit. It stands on top so that its overflow leaves the word. Below it, one comparison tells whether a caller may
//! pass: with anyone waiting or the lane closed (`C`), the lower 40 bits are larger than any number of permits.

use std::task::Waker;

use super::atomic_state::GrantedCarried;
use super::state::State;

/// The most permits that a lane can hold.
pub(crate) const MAX_PERMITS: usize = (1 << 16) - 1;
/// The most callers that can wait in a lane.
pub(crate) const MAX_WAITING: usize = (1 << 23) - 1;
/// `granted` counts modulo this.
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

    pub(crate) fn waiting(self) -> usize {
        (self.0 >> 16) as usize & MAX_WAITING
    }

    pub(crate) fn granted(self) -> u64 {
        self.0 >> 40
    }

    pub(crate) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// A permit is free, nobody waits for it, and the lane is open.
    pub(crate) fn admits(self, permits: usize) -> bool {
        (self.0 & BELOW_GRANTED) < permits as u64
    }

    /// Nobody waits and the lane is open, so a permit that comes back concerns nobody else.
    pub(crate) fn is_quiet(self) -> bool {
        (self.0 & BELOW_GRANTED) < ONE_WAITING
    }

    /// Nobody is inside, and nobody waits.
    pub(crate) fn is_idle(self) -> bool {
        self.0 & (CLOSED - 1) == 0
    }

    pub(crate) fn entered(self) -> Self {
        Self(self.0.wrapping_add(ONE_HELD + ONE_GRANTED))
    }

    pub(crate) fn left(self) -> Self {
        Self(self.0 - ONE_HELD)
    }
}

impl State for PermitState {
    type Weight = ();
    type Permits = usize;
    type Next = Option<Waker>;
    type Beside = GrantedCarried;

    const CLOSED: u64 = CLOSED;

    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn bits(self) -> u64 {
        self.0
    }

    fn waiting(self) -> usize {
        self.waiting()
    }

    #[inline]
    fn admits(self, permits: usize, (): ()) -> bool {
        self.admits(permits)
    }

    fn has_room(self, permits: usize, (): ()) -> bool {
        self.held() < permits
    }

    #[inline]
    fn is_quiet(self) -> bool {
        self.is_quiet()
    }

    #[inline]
    fn entered(self, (): ()) -> Self {
        self.entered()
    }

    #[inline]
    fn freed((): ()) -> u64 {
        ONE_HELD.wrapping_neg()
    }

    fn joined(self) -> Self {
        Self(self.0 + ONE_WAITING)
    }

    fn stopped_waiting(self, callers: usize) -> Self {
        Self(self.0 - ONE_WAITING * callers as u64)
    }

    #[inline]
    fn count(beside: &GrantedCarried, seen: Self) {
        beside.count(seen);
    }
}
