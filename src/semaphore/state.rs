//! [`State`], what the algorithm must know of a lane's state, and [`Next`], those whose turn comes.

use std::fmt::Debug;
use std::task::Waker;

/// The state of a lane in one word. It tells who may enter; an exchange of it lets them in.
pub(crate) trait State: Copy + Eq + Debug {
    /// What a caller asks for: nothing to say where each takes one permit.
    type Weight: Copy + Debug;
    /// How many permits there are, unless the word itself knows.
    type Permits: Copy + Debug;
    /// Those who enter when something comes back.
    type Next: Next;
    /// What a lane of its own keeps beside the word.
    type Beside: Debug;

    const CLOSED: u64;

    fn from_bits(bits: u64) -> Self;

    fn bits(self) -> u64;

    fn is_closed(self) -> bool {
        self.bits() & Self::CLOSED != 0
    }

    fn waiting(self) -> usize;

    /// There is room, nobody waits for it, and the lane is open.
    fn admits(self, permits: Self::Permits, weight: Self::Weight) -> bool;

    /// There is room for the next in line.
    fn has_room(self, permits: Self::Permits, weight: Self::Weight) -> bool;

    /// Nobody waits and the lane is open, so what comes back concerns nobody else.
    fn is_quiet(self) -> bool;

    fn entered(self, weight: Self::Weight) -> Self;

    /// What to add to the bits, modulo 2⁶⁴, when somebody leaves.
    fn freed(weight: Self::Weight) -> u64;

    fn left(self, weight: Self::Weight) -> Self {
        Self::from_bits(self.bits().wrapping_add(Self::freed(weight)))
    }

    fn closed(self) -> Self {
        Self::from_bits(self.bits() | Self::CLOSED)
    }

    fn joined(self) -> Self;

    fn stopped_waiting(self, callers: usize) -> Self;

    /// Counts the grant that followed `seen`.
    fn count(beside: &Self::Beside, seen: Self);
}

/// Those whose turn comes at once, to be woken after the mutex is unlocked.
pub(crate) trait Next: Debug + Default + IntoIterator<Item = Waker> {
    fn push(&mut self, waker: Waker);
}

/// One permit comes back, one caller gets it.
impl Next for Option<Waker> {
    fn push(&mut self, waker: Waker) {
        debug_assert!(self.is_none(), "a permit that comes back is one caller's");
        *self = Some(waker);
    }
}
