//! [`AcquireErrorKind`], the kind of an [`AcquireError`](super::AcquireError).

use std::fmt;

/// The kind of an [`AcquireError`](super::AcquireError). The `Display` text gives advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcquireErrorKind {
    /// Every permit is held, and this caller does not wait.
    Busy,
    /// The guard's queue is full. Under [`Order::Fifo`](super::Order::Fifo) a new caller is refused. Under
    /// [`Order::Lifo`](super::Order::Lifo) the oldest waiter is refused, and [`waited`](super::AcquireError::waited)
    /// returns how long that waiter waited.
    QueueFull,
    /// The maximum number of keys of a [`KeyedGuard`](super::KeyedGuard) is in use, and this caller asked for another
    /// key.
    TooManyKeys,
    /// The caller did not get a permit within the guard's `max_wait`.
    Timeout,
    /// A permit was granted, but the future was not polled within the guard's `grant_timeout`, and the permit went to
    /// another caller.
    GrantExpired,
    /// The caller already runs inside this guard, through [`run`] or the web layer around its handler, and every permit
    /// is held: the caller would wait for itself. The same applies to [tasks](super#nested-use) that such a caller
    /// waits for.
    ///
    /// (With several permits, the caller might wait only for the other holders. But the guard cannot know if those
    /// holders wait for it, too, so it refuses.)
    ///
    /// [`run`]: super::EndpointGuard::run
    WouldDeadlock,
    /// The guard was closed and admits no more callers.
    Closed,
    /// A blocking wait was attempted on a thread that runs async tasks, which it would stall.
    BlockingInAsync,
    /// `try_acquire` was called on a guard that is [distributed](super::GuardBuilder::distributed): it can't ask other
    /// processes without waiting.
    NotLocal,
    /// The [domain](crate::backend::LockDomain) of a distributed guard is not connected to a store.
    NotConnected,
    /// The store of a distributed guard did not answer, or failed. The error's `source` is the store's.
    Unavailable,
}

impl AcquireErrorKind {
    /// Returns `true` if there are too many callers, so that a later attempt may succeed: [`Busy`](Self::Busy),
    /// [`QueueFull`](Self::QueueFull), [`TooManyKeys`](Self::TooManyKeys), [`Timeout`](Self::Timeout) and
    /// [`GrantExpired`](Self::GrantExpired).
    #[must_use]
    pub fn is_overload(self) -> bool {
        matches!(self, Self::Busy | Self::QueueFull | Self::TooManyKeys | Self::Timeout | Self::GrantExpired)
    }
}

impl fmt::Display for AcquireErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "every permit is held: try again later, or wait with acquire() on a guard that has a queue",
            Self::QueueFull => "the queue is full: try again later, or let the guard queue more callers",
            Self::TooManyKeys => "too many keys are in use: try again later, or raise max_keys",
            Self::Timeout => "no permit in time: try again later, or raise max_wait",
            Self::GrantExpired => {
                "the permit was not taken within grant_timeout: poll the future while it waits, or drop it"
            }
            Self::WouldDeadlock => {
                "already inside this guard, which is full: do not acquire it again in work that it guards"
            }
            Self::Closed => "the guard is closed and admits no more callers: try another instance, or later",
            Self::BlockingInAsync => {
                "blocking wait on a thread that runs async tasks: use acquire().await, or spawn_blocking"
            }
            Self::NotLocal => {
                "a distributed guard can't answer without waiting: use acquire().await, with Queue::Reject to be \
                 refused at once"
            }
            Self::NotConnected => {
                "the guard's domain is not connected: await LockDomain::connect when the program starts"
            }
            Self::Unavailable => "the store of the guard's domain does not answer: see the source of this error",
        })
    }
}
