//! The results of the operations on a semaphore.

use super::waiters::{WaiterId, WaiterState};

/// The reason why a semaphore refused a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SemaphoreRefusal {
    /// Every permit is held, or another caller is already waiting.
    Busy,
    /// The queue is full, and its order is not [`Order::Lifo`](super::Order::Lifo).
    QueueFull,
    /// The key is new, and the maximum number of keys is in use.
    TooManyKeys,
    Closed,
}

/// The result of enqueuing a caller.
#[derive(Debug)]
pub(crate) enum EnqueueOutcome {
    /// A permit was released in the meantime: the caller holds it.
    Acquired,
    Queued(WaiterId),
    Refused(SemaphoreRefusal),
}

/// The outcome of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitOutcome {
    /// The caller holds a permit.
    Acquired,
    /// The permit that was granted to the caller expired before the caller took it.
    Expired,
    /// A newer caller evicted this caller from the full queue.
    Evicted,
    Closed,
}

impl WaitOutcome {
    pub(super) fn of(state: &WaiterState) -> Option<Self> {
        match state {
            WaiterState::Waiting(_) => None,
            WaiterState::Granted(_) => Some(Self::Acquired),
            WaiterState::Expired => Some(Self::Expired),
            WaiterState::Evicted => Some(Self::Evicted),
            WaiterState::Closed | WaiterState::Vacant => Some(Self::Closed),
        }
    }
}

/// The effect of releasing a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseOutcome {
    /// The permit is available.
    Available,
    /// The permit was granted to the next waiter.
    PassedOn,
    /// It was the last permit of a closed semaphore.
    Drained,
}

/// The effect of cancelling a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CancelOutcome {
    /// The waiter was removed from the queue.
    Dequeued,
    /// The waiter had been granted a permit, which was released.
    Released,
    /// Nothing changed, because the wait had already ended: the semaphore was closed, the grant had expired, or the
    /// waiter was evicted.
    AlreadyEnded,
}

/// A point-in-time copy of a semaphore's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SemaphoreSnapshot {
    pub(crate) held: usize,
    pub(crate) waiting: usize,
    pub(crate) granted: u64,
    pub(crate) is_closed: bool,
}
