//! [`SemaphoreState`], the operations on a semaphore's state that the algorithm needs, and [`WakerSet`], the wakers of
//! the waiters that an operation grants permits to.

use std::fmt::Debug;
use std::task::Waker;

/// The state of a semaphore, packed into 64 bits. The state determines whether a caller is admitted, and exchanging the
/// state admits the caller.
pub(crate) trait SemaphoreState: Copy + Eq + Debug {
    /// The amount that a caller acquires: `()` if every caller acquires one permit.
    type Weight: Copy + Debug;
    /// The number of permits, unless the state itself contains it.
    type Permits: Copy + Debug;
    /// The wakers of the waiters that one release can grant permits to.
    type Wakers: WakerSet;
    /// The data that an atomic semaphore keeps in addition to the state.
    type Extra: Debug;

    const CLOSED: u64;

    fn from_bits(bits: u64) -> Self;

    fn to_bits(self) -> u64;

    fn is_closed(self) -> bool {
        self.to_bits() & Self::CLOSED != 0
    }

    fn waiting(self) -> usize;

    /// Returns `true` if enough permits are available, no caller is waiting, and the semaphore is open.
    fn admits(self, permits: Self::Permits, weight: Self::Weight) -> bool;

    /// Returns `true` if enough permits are available for the next waiter.
    fn has_room(self, permits: Self::Permits, weight: Self::Weight) -> bool;

    /// Returns `true` if no caller is waiting and the semaphore is open. A release then affects no other caller.
    fn is_uncontended(self) -> bool;

    fn acquired(self, weight: Self::Weight) -> Self;

    /// Returns what a release adds to the bits, modulo 2⁶⁴.
    fn release_delta(weight: Self::Weight) -> u64;

    fn released(self, weight: Self::Weight) -> Self {
        Self::from_bits(self.to_bits().wrapping_add(Self::release_delta(weight)))
    }

    fn enqueued(self) -> Self;

    fn dequeued(self, waiters: usize) -> Self;

    /// Counts the grant that replaced the state `seen`.
    fn count_grant(extra: &Self::Extra, seen: Self);
}

/// The wakers of waiters that have just been granted permits. They must be woken after the mutex is unlocked.
pub(crate) trait WakerSet: Debug + Default + IntoIterator<Item = Waker> {
    fn push(&mut self, waker: Waker);
}

/// One released permit is granted to one waiter.
impl WakerSet for Option<Waker> {
    fn push(&mut self, waker: Waker) {
        debug_assert!(self.is_none(), "a released permit is granted to one waiter");
        *self = Some(waker);
    }
}
