//! [`EndpointGuardBuilder`] and the choices it offers.

use std::time::Duration;

use super::EndpointGuard;
use super::wait::Limits;
use crate::semaphore::{MAX_PERMITS, MAX_WAITING, Order, Semaphore, SemaphoreConfig};

/// How many callers may wait for a turn.
///
/// A bound is worth `release rate × the delay that callers put up with`: at ten requests a second and two seconds of
/// patience, 20. Those beyond it would only wait to give up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Queue {
    /// As many as come (8,388,607 at most).
    #[default]
    Unbounded,
    /// At most this many, from 1 to 8,388,607. The next one is refused with
    /// [`QueueFull`](super::AcquireError::QueueFull).
    Bounded(usize),
    /// Nobody: who finds the guard full is refused with [`Busy`](super::AcquireError::Busy).
    Reject,
}

/// Builds an [`EndpointGuard`], in a `const` too.
///
/// ```
/// use std::time::Duration;
/// use onelane::{EndpointGuard, Queue};
///
/// static EXPORT: EndpointGuard = EndpointGuard::builder("export")
///     .permits(2)
///     .queue(Queue::Bounded(32))
///     .max_wait(Duration::from_secs(2))
///     .build();
/// # assert_eq!(EXPORT.stats().permits, 2);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct EndpointGuardBuilder {
    name: &'static str,
    choices: Choices,
}

/// What the builders of all guards offer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choices {
    pub(super) permits: usize,
    pub(super) queue: Queue,
    pub(super) order: Order,
    pub(super) limits: Limits,
}

impl EndpointGuardBuilder {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, choices: Choices::new() }
    }

    /// How many callers may be inside at once, from 1 to 65,535. Default: 1.
    pub const fn permits(mut self, permits: usize) -> Self {
        self.choices.permits = permits;
        self
    }

    /// How many callers may wait. Default: [`Queue::Unbounded`].
    pub const fn queue(mut self, queue: Queue) -> Self {
        self.choices.queue = queue;
        self
    }

    /// Who of those that wait goes first. Default: [`Order::Fifo`].
    pub const fn order(mut self, order: Order) -> Self {
        self.choices.order = order;
        self
    }

    /// How long a caller waits at most, counted from the moment it joins the queue. Default: no limit.
    ///
    /// The timer is set only when a caller has to wait. A turn that comes at the same moment wins.
    pub const fn max_wait(mut self, max_wait: Duration) -> Self {
        self.choices.limits.max_wait = Some(max_wait);
        self
    }

    /// How long a turn that has come is kept for a future that nobody polls. Default: for ever.
    ///
    /// A future that waits for the guard, and whose owner then waits for the same guard elsewhere, would hold up the
    /// owner for ever ("futurelock", Oxide RFD 609). With a limit the turn goes to the next caller, and the future
    /// that missed it ends with [`GrantExpired`](super::AcquireError::GrantExpired). Choose it well above the time for
    /// which your tasks may be kept from running: a second rather than a millisecond. Callers that wait watch over
    /// the grants before them, so there is no cost without them.
    pub const fn grant_timeout(mut self, grant_timeout: Duration) -> Self {
        self.choices.limits.grant_timeout = Some(grant_timeout);
        self
    }

    /// Builds the guard.
    ///
    /// # Panics
    ///
    /// If a value is out of its range: permits from 1 to 65,535; a bound from 1 to 8,388,607 ([`Queue::Reject`] is the
    /// word for no queue); `max_wait` and `grant_timeout` above zero, and neither of them beside [`Queue::Reject`],
    /// where nobody waits. In a `const` or `static` that is a compile error:
    ///
    /// ```compile_fail,E0080
    /// # use onelane::EndpointGuard;
    /// static NOBODY: EndpointGuard = EndpointGuard::builder("nobody").permits(0).build();
    /// ```
    ///
    /// ```compile_fail,E0080
    /// # use onelane::{EndpointGuard, Queue};
    /// static ZERO: EndpointGuard = EndpointGuard::builder("zero").queue(Queue::Bounded(0)).build();
    /// ```
    ///
    /// ```compile_fail,E0080
    /// # use std::time::Duration;
    /// # use onelane::EndpointGuard;
    /// static HASTY: EndpointGuard = EndpointGuard::builder("hasty").grant_timeout(Duration::ZERO).build();
    /// ```
    #[must_use]
    pub const fn build(self) -> EndpointGuard {
        let Self { name, choices } = self;
        EndpointGuard::from_parts(name, Semaphore::new(choices.rules()), choices.limits)
    }
}

impl Choices {
    pub(super) const fn new() -> Self {
        let limits = Limits { max_wait: None, grant_timeout: None };
        Self { permits: 1, queue: Queue::Unbounded, order: Order::Fifo, limits }
    }

    /// The rules of a lane.
    ///
    /// # Panics
    ///
    /// If a value is out of its range.
    pub(super) const fn rules(&self) -> SemaphoreConfig {
        assert!(self.permits > 0, "permits(0) would admit nobody: give 1 or more, or close() the guard");
        assert!(self.permits <= MAX_PERMITS, "permits() takes 65,535 at most");
        let bound = match self.queue {
            Queue::Unbounded => MAX_WAITING,
            Queue::Bounded(0) => panic!("Bounded(0) is no queue: say Queue::Reject"),
            Queue::Bounded(bound) => bound,
            Queue::Reject => 0,
        };
        assert!(bound <= MAX_WAITING, "Bounded() takes 8,388,607 at most: say Queue::Unbounded");
        let Limits { max_wait, grant_timeout } = self.limits;
        if let Some(max_wait) = max_wait {
            assert!(!max_wait.is_zero(), "a max_wait of zero lets nobody wait: say Queue::Reject");
        }
        if let Some(grant_timeout) = grant_timeout {
            assert!(
                !grant_timeout.is_zero(),
                "a grant_timeout of zero lets nobody take a turn: give a second or so, or none"
            );
        }
        let is_limited = max_wait.is_some() || grant_timeout.is_some();
        assert!(bound > 0 || !is_limited, "Queue::Reject lets nobody wait: a time limit on waiting contradicts it");
        SemaphoreConfig { permits: self.permits, bound, order: self.order }
    }
}
