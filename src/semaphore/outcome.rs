//! What a lane tells those who ask it.

use super::waiters::{WaiterId, WaiterState};

/// Why a caller was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Every permit is held, or someone waits already.
    Busy,
    /// So many wait that no more may.
    Full,
    /// There are so many lanes that there may be no other.
    TooManyKeys,
    Closed,
}

/// How joining the queue ended.
#[derive(Debug)]
pub(crate) enum EnqueueOutcome {
    /// A permit had come free: the caller holds it.
    Entered,
    Queued(WaiterId),
    Refused(Refused),
}

/// What a waiter that asks finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitOutcome {
    /// The caller holds a permit.
    Entered,
    /// Its grant was not taken in time.
    Expired,
    Closed,
}

impl WaitOutcome {
    pub(super) fn of(turn: &WaiterState) -> Option<Self> {
        match turn {
            WaiterState::Waiting(_) => None,
            WaiterState::Granted(_) => Some(Self::Entered),
            WaiterState::Expired => Some(Self::Expired),
            WaiterState::Closed | WaiterState::Vacant => Some(Self::Closed),
        }
    }
}

/// What a waiter that left had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CancelOutcome {
    /// A place in the queue.
    Waiting,
    /// A permit, which is now the next one's.
    PassedOn,
    /// Nothing: the lane was closed, or its grant had expired.
    Refused,
}

/// What a glance at the lane shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SemaphoreSnapshot {
    pub(crate) held: usize,
    pub(crate) waiting: usize,
    pub(crate) granted: u64,
    pub(crate) is_closed: bool,
}
