//! [`GuardBuilder`], which builds every kind of guard.

use std::fmt::Display;
use std::marker::PhantomData;
use std::time::Duration;

use super::core::WaitLimits;
use super::endpoint_guard::EndpointGuard;
use super::keyed::{KeyLimit, KeyedGuard};
use crate::backend::LockDomain;
use crate::config_error::{ConfigError, Problem};
use crate::debug::impl_debug;
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
    /// The queue holds at most this many callers, from 1 to 8,388,607. If the queue is full, one caller is refused with
    /// [`QueueFull`](crate::guard::AcquireErrorKind::QueueFull): the new caller under [`Order::Fifo`], and the caller
    /// that has waited longest under [`Order::Lifo`].
    Bounded(usize),
    /// No queue: a caller that finds no permit available is refused with
    /// [`Busy`](crate::guard::AcquireErrorKind::Busy).
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
pub type EndpointGuardBuilder = GuardBuilder<EndpointGuard>;

/// Builds a [`KeyedGuard`]. Works in `const` contexts, too. All settings but [`max_keys`](Self::max_keys) apply to each
/// key separately.
///
/// ```
/// use std::time::Duration;
/// use onelane::{KeyedGuard, Queue};
///
/// static PER_TENANT: KeyedGuard<u64> = KeyedGuard::builder("tenant")
///     .permits(2)
///     .queue(Queue::Bounded(8))
///     .max_wait(Duration::from_secs(2))
///     .max_keys(10_000)
///     .build();
/// # assert_eq!(PER_TENANT.stats().permits, 2);
/// ```
pub type KeyedGuardBuilder<K> = GuardBuilder<KeyedGuard<K>>;

/// Builds a guard: [`EndpointGuardBuilder`] and [`KeyedGuardBuilder`] are aliases of this type.
///
/// The setters accept any value. [`build`](EndpointGuardBuilder::build) panics if a value is out of range, and
/// [`try_build`](EndpointGuardBuilder::try_build) returns an error, for values that come from a configuration.
#[must_use = "a builder does nothing until build() is called"]
#[expect(private_bounds, reason = "the bound is sealed")]
pub struct GuardBuilder<G: BuiltGuard> {
    name: &'static str,
    permits: usize,
    queue: Queue,
    order: Order,
    limits: WaitLimits,
    max_keys: Option<usize>,
    /// The processes over which the guard is distributed, and how they name its keys.
    domain: Option<(&'static LockDomain, G::KeyName)>,
    guard: PhantomData<fn() -> G>,
}

/// A guard that a [`GuardBuilder`] builds.
pub(crate) trait BuiltGuard {
    /// How other processes name a key of the guard.
    type KeyName: Copy;
}

impl BuiltGuard for EndpointGuard {
    type KeyName = ();
}

impl<K> BuiltGuard for KeyedGuard<K> {
    type KeyName = fn(&K) -> String;
}

#[expect(private_bounds, reason = "the bound is sealed")]
impl<G: BuiltGuard> GuardBuilder<G> {
    pub(super) const fn new(name: &'static str) -> Self {
        let limits = WaitLimits { max_wait: None, grant_timeout: None, evicts: false };
        let (permits, queue, order) = (1, Queue::Unbounded, Order::Fifo);
        Self { name, permits, queue, order, limits, max_keys: None, domain: None, guard: PhantomData }
    }

    /// Sets the number of permits: how many callers may run inside the guard at once, or how many callers of one key,
    /// from 1 to 65,535. Default: 1.
    pub const fn permits(mut self, permits: usize) -> Self {
        self.permits = permits;
        self
    }

    /// Sets how many callers may wait, or how many callers of one key. Default: [`Queue::Unbounded`].
    pub const fn queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// Sets the order in which waiting callers are served. Default: [`Order::Fifo`].
    pub const fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Limits how long a caller waits, from the moment when it is queued. Default: no limit.
    ///
    /// The timer is set only when a caller has to wait. If a permit is granted just as the timer fires, the caller gets
    /// the permit.
    pub const fn max_wait(mut self, max_wait: Duration) -> Self {
        self.limits.max_wait = Some(max_wait);
        self
    }

    /// Sets how long a granted permit is kept for a future that is not polled. Default: forever.
    ///
    /// If the owner of a waiting future stops polling it and waits for the same guard elsewhere, the future blocks its
    /// own owner forever ("futurelock", Oxide RFD 609). With a limit the permit goes to the next caller, and the future
    /// that missed it ends with [`GrantExpired`](crate::guard::AcquireErrorKind::GrantExpired). Choose a limit well
    /// above the time for which your tasks may go without being polled: a second rather than a millisecond. Waiting
    /// callers check the grants before theirs, so a guard without waiting callers has no extra cost.
    pub const fn grant_timeout(mut self, grant_timeout: Duration) -> Self {
        self.limits.grant_timeout = Some(grant_timeout);
        self
    }

    /// Returns the config of the guard's semaphores, or the first setting that is out of range.
    const fn semaphore_config(&self) -> Result<SemaphoreConfig, Problem> {
        let bound = match self.queue {
            Queue::Unbounded => MAX_WAITING,
            Queue::Bounded(0) => return Err(("queue", "queue(Queue::Bounded(0)) has no capacity: use Queue::Reject")),
            Queue::Bounded(bound) => bound,
            Queue::Reject => 0,
        };
        let WaitLimits { max_wait, grant_timeout, .. } = self.limits;
        if self.permits == 0 {
            return Err(("permits", "permits(0) admits no caller: use 1 or more, or close() the guard"));
        }
        if self.permits > 1 && self.domain.is_some() {
            let problem = "a distributed guard admits one caller at a time: remove permits() or distributed()";
            return Err(("permits", problem));
        }
        if self.permits > MAX_PERMITS {
            return Err(("permits", "permits() must be at most 65,535"));
        }
        if bound > MAX_WAITING {
            return Err(("queue", "queue(Queue::Bounded()) must be at most 8,388,607: use Queue::Unbounded"));
        }
        if let Some(0) = self.max_keys {
            return Err(("max_keys", "max_keys(0) admits no caller: use 1 or more, or close() the guard"));
        }
        if let Some(Duration::ZERO) = max_wait {
            return Err(("max_wait", "a max_wait of zero lets no caller wait: use Queue::Reject"));
        }
        if let Some(Duration::ZERO) = grant_timeout {
            let problem = "a grant_timeout of zero lets no caller take its permit: use about a second, or none";
            return Err(("grant_timeout", problem));
        }
        if bound == 0 && max_wait.is_some() {
            return Err((
                "max_wait",
                "max_wait() contradicts Queue::Reject, with which no caller waits: use one of them",
            ));
        }
        if bound == 0 && grant_timeout.is_some() {
            let problem = "grant_timeout() contradicts Queue::Reject, with which no caller waits: use one of them";
            return Err(("grant_timeout", problem));
        }
        Ok(SemaphoreConfig { permits: self.permits, bound, order: self.order })
    }
}

impl EndpointGuardBuilder {
    /// Lets the guard admit one caller at a time across all processes that share the [`LockDomain`], instead of one
    /// caller in each process. Processes share the domain if they connect it to the same store and use the same names
    /// for the domain and the guard.
    ///
    /// Everything else stays as it is, with these additions:
    ///
    /// - A caller waits for its turn in this process, in order, and then for the turn of the process. The order among
    ///   processes is not defined, but each of them gets its turn. `max_wait` limits both waits together. A caller that
    ///   waits for other processes counts as [held](super::GuardStats::held).
    /// - The permit has a [`Lease`](crate::backend::Lease), with a fencing token and a signal for its loss.
    /// - `try_acquire` can't query a store without waiting, and returns
    ///   [`NotLocal`](crate::guard::AcquireErrorKind::NotLocal). To be refused at once if another caller is inside the
    ///   guard, set [`Queue::Reject`] and await `acquire`.
    /// - `acquire` also returns [`NotConnected`](crate::guard::AcquireErrorKind::NotConnected) and
    ///   [`Unavailable`](crate::guard::AcquireErrorKind::Unavailable).
    ///
    /// See [what such a lock can promise](crate::backend#what-such-a-lock-can-promise).
    pub const fn distributed(mut self, domain: &'static LockDomain) -> Self {
        self.domain = Some((domain, ()));
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
        #[track_caller]
        pub fn build(self) -> EndpointGuard {
            match self.semaphore_config() {
                Ok(config) => self.build_with(config),
                Err((_, problem)) => panic!("{}", problem),
            }
        }
    }

    const_unless_loom! {
        /// Builds the guard from settings that may be out of range, such as those of a configuration file.
        ///
        /// # Errors
        ///
        /// Returns an error that names the first setting for which [`build`](Self::build) would panic.
        pub fn try_build(self) -> Result<EndpointGuard, ConfigError> {
            match self.semaphore_config() {
                Ok(config) => Ok(self.build_with(config)),
                Err(problem) => Err(ConfigError::new("guard", self.name, problem)),
            }
        }
    }

    const_unless_loom! {
        fn build_with(self, config: SemaphoreConfig) -> EndpointGuard {
            let limits = WaitLimits { evicts: config.evicts(), ..self.limits };
            let domain = match self.domain {
                Some((domain, ())) => Some(domain),
                None => None,
            };
            EndpointGuard::from_parts(self.name, Semaphore::new(config), limits, domain)
        }
    }
}

impl<K> KeyedGuardBuilder<K> {
    /// Lets the guard admit one caller of each key at a time across all processes that share the [`LockDomain`], as
    /// [`EndpointGuardBuilder::distributed`] does. Keys with the same text are the same key.
    pub const fn distributed(mut self, domain: &'static LockDomain) -> Self
    where
        K: Display,
    {
        self.domain = Some((domain, K::to_string));
        self
    }

    /// Limits how many keys may be in use at once. Must be at least 1. The caller of a further key is refused at once
    /// with [`TooManyKeys`](crate::guard::AcquireErrorKind::TooManyKeys). Default: no limit.
    ///
    /// A key is in use while a caller holds a permit of it or waits for one, or keeps a future whose wait has ended
    /// without polling or dropping it. A key that is not in use takes no memory. This setting therefore bounds how many
    /// keys can be claimed at the same moment by clients that make up keys.
    pub const fn max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = Some(max_keys);
        self
    }

    const_unless_loom! {
        /// Builds the guard.
        ///
        /// # Panics
        ///
        /// Panics if a value is out of range, as [`EndpointGuardBuilder::build`] does, or if `max_keys` is 0. In a
        /// `const` or `static` this is a compile error:
        ///
        /// ```compile_fail,E0080
        /// # use onelane::KeyedGuard;
        /// static NO_KEYS: KeyedGuard<u64> = KeyedGuard::builder("no keys").max_keys(0).build();
        /// ```
        #[must_use]
        #[track_caller]
        pub fn build(self) -> KeyedGuard<K> {
            match self.semaphore_config() {
                Ok(config) => self.build_with(config),
                Err((_, problem)) => panic!("{}", problem),
            }
        }
    }

    const_unless_loom! {
        /// Builds the guard from settings that may be out of range, such as those of a configuration file.
        ///
        /// # Errors
        ///
        /// Returns an error that names the first setting for which [`build`](Self::build) would panic.
        pub fn try_build(self) -> Result<KeyedGuard<K>, ConfigError> {
            match self.semaphore_config() {
                Ok(config) => Ok(self.build_with(config)),
                Err(problem) => Err(ConfigError::new("guard", self.name, problem)),
            }
        }
    }

    const_unless_loom! {
        fn build_with(self, config: SemaphoreConfig) -> KeyedGuard<K> {
            let key_limit = match self.max_keys {
                Some(max) => Some(KeyLimit::new(max)),
                None => None,
            };
            let limits = WaitLimits { evicts: config.evicts(), ..self.limits };
            KeyedGuard::from_parts(self.name, config, limits, key_limit, self.domain)
        }
    }
}

impl<G: BuiltGuard> Clone for GuardBuilder<G> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl_debug!([G: BuiltGuard] GuardBuilder<G> |this| {
    name: this.name, permits: this.permits, queue: this.queue, order: this.order, limits: this.limits,
    max_keys: this.max_keys, domain: this.domain.map(|(domain, _)| domain.name())
});
