//! [`EndpointGuardBuilder`], and the settings that the builders of all guards offer.

use std::time::Duration;

use super::core::WaitLimits;
use super::endpoint_guard::EndpointGuard;
use crate::semaphore::{MAX_PERMITS, MAX_WAITING, Order, Semaphore, SemaphoreConfig};
use crate::sync::const_unless_loom;

/// The number of callers that may wait for a permit.
///
/// A good bound is `release rate × acceptable delay`: for ten requests per second and two seconds of patience, 20.
/// Callers beyond the bound would only wait to time out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Queue {
    /// No bound other than the technical maximum of 8,388,607 callers.
    #[default]
    Unbounded,
    /// At most this many callers, from 1 to 8,388,607. The next caller is refused with
    /// [`QueueFull`](super::AcquireError::QueueFull).
    Bounded(usize),
    /// No queue: a caller that finds no permit available is refused with [`Busy`](super::AcquireError::Busy).
    Reject,
}

/// Builds an [`EndpointGuard`]. Works in `const` contexts, too.
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
    settings: GuardSettings,
}

/// The settings that the builders of all guards offer.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuardSettings {
    pub(super) permits: usize,
    pub(super) queue: Queue,
    pub(super) order: Order,
    pub(super) limits: WaitLimits,
}

impl EndpointGuardBuilder {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, settings: GuardSettings::new() }
    }

    /// Sets the number of permits: how many callers may run inside the guard at once, from 1 to 65,535. Default: 1.
    pub const fn permits(mut self, permits: usize) -> Self {
        self.settings.permits = permits;
        self
    }

    /// Sets how many callers may wait. Default: [`Queue::Unbounded`].
    pub const fn queue(mut self, queue: Queue) -> Self {
        self.settings.queue = queue;
        self
    }

    /// Sets the order in which waiting callers are served. Default: [`Order::Fifo`].
    pub const fn order(mut self, order: Order) -> Self {
        self.settings.order = order;
        self
    }

    /// Limits how long a caller waits, from the moment when it is queued. Default: no limit.
    ///
    /// The timer is set only when a caller has to wait. If a permit is granted just as the timer fires, the caller gets
    /// the permit.
    pub const fn max_wait(mut self, max_wait: Duration) -> Self {
        self.settings.limits.max_wait = Some(max_wait);
        self
    }

    /// Sets how long a granted permit is kept for a future that is not polled. Default: forever.
    ///
    /// If the owner of a waiting future stops polling it and waits for the same guard elsewhere, the future blocks its
    /// own owner forever ("futurelock", Oxide RFD 609). With a limit the permit goes to the next caller, and the future
    /// that missed it ends with [`GrantExpired`](super::AcquireError::GrantExpired). Choose a limit well above the time
    /// for which your tasks may go without being polled: a second rather than a millisecond. Waiting callers check the
    /// grants before theirs, so a guard without waiting callers has no extra cost.
    pub const fn grant_timeout(mut self, grant_timeout: Duration) -> Self {
        self.settings.limits.grant_timeout = Some(grant_timeout);
        self
    }

    const_unless_loom! {
        /// Builds the guard.
        ///
        /// # Panics
        ///
        /// Panics if a value is out of range: permits from 1 to 65,535; a bound from 1 to 8,388,607 ([`Queue::Reject`]
        /// stands for no queue); `max_wait` and `grant_timeout` above zero, and neither of them together with
        /// [`Queue::Reject`], with which no caller waits. In a `const` or `static` this is a compile error:
        ///
        /// ```compile_fail,E0080
        /// # use onelane::EndpointGuard;
        /// static NO_PERMITS: EndpointGuard = EndpointGuard::builder("no permits").permits(0).build();
        /// ```
        ///
        /// ```compile_fail,E0080
        /// # use onelane::{EndpointGuard, Queue};
        /// static NO_QUEUE: EndpointGuard = EndpointGuard::builder("no queue").queue(Queue::Bounded(0)).build();
        /// ```
        ///
        /// ```compile_fail,E0080
        /// # use std::time::Duration;
        /// # use onelane::EndpointGuard;
        /// static NO_TIME: EndpointGuard = EndpointGuard::builder("no time").grant_timeout(Duration::ZERO).build();
        /// ```
        #[must_use]
        pub fn build(self) -> EndpointGuard {
            let Self { name, settings } = self;
            EndpointGuard::from_parts(name, Semaphore::new(settings.semaphore_config()), settings.limits)
        }
    }
}

impl GuardSettings {
    pub(super) const fn new() -> Self {
        let limits = WaitLimits { max_wait: None, grant_timeout: None };
        Self { permits: 1, queue: Queue::Unbounded, order: Order::Fifo, limits }
    }

    /// Returns the config of a semaphore.
    ///
    /// # Panics
    ///
    /// Panics if a value is out of range.
    pub(super) const fn semaphore_config(&self) -> SemaphoreConfig {
        assert!(self.permits > 0, "permits(0) admits no caller: use 1 or more, or close() the guard");
        assert!(self.permits <= MAX_PERMITS, "permits() must be at most 65,535");
        let bound = match self.queue {
            Queue::Unbounded => MAX_WAITING,
            Queue::Bounded(0) => panic!("Bounded(0) is not a queue: use Queue::Reject"),
            Queue::Bounded(bound) => bound,
            Queue::Reject => 0,
        };
        assert!(bound <= MAX_WAITING, "Bounded() must be at most 8,388,607: use Queue::Unbounded");
        let WaitLimits { max_wait, grant_timeout } = self.limits;
        if let Some(max_wait) = max_wait {
            assert!(!max_wait.is_zero(), "a max_wait of zero lets no caller wait: use Queue::Reject");
        }
        if let Some(grant_timeout) = grant_timeout {
            assert!(
                !grant_timeout.is_zero(),
                "a grant_timeout of zero lets no caller take its permit: use about a second, or none"
            );
        }
        let is_limited = max_wait.is_some() || grant_timeout.is_some();
        assert!(bound > 0 || !is_limited, "Queue::Reject lets no caller wait: a time limit on waiting contradicts it");
        SemaphoreConfig { permits: self.permits, bound, order: self.order }
    }
}
