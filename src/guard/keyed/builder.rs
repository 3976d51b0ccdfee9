//! [`KeyedGuardBuilder`], which builds a [`KeyedGuard`].

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::key_entry::KeyLimit;
use super::keyed_guard::KeyedGuard;
use crate::guard::builder::{GuardSettings, Queue};
use crate::semaphore::Order;
use crate::sync::const_unless_loom;

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
#[derive(Clone)]
#[must_use = "a builder does nothing until build() is called"]
pub struct KeyedGuardBuilder<K> {
    name: &'static str,
    settings: GuardSettings,
    max_keys: Option<usize>,
    keys: PhantomData<fn(K)>,
}

impl<K> KeyedGuardBuilder<K> {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, settings: GuardSettings::new(), max_keys: None, keys: PhantomData }
    }

    /// Sets the number of permits of each key: how many callers of one key may run at once, from 1 to 65,535. Default:
    /// 1.
    pub const fn permits(mut self, permits: usize) -> Self {
        self.settings.permits = permits;
        self
    }

    /// Sets how many callers of one key may wait. Default: [`Queue::Unbounded`].
    pub const fn queue(mut self, queue: Queue) -> Self {
        self.settings.queue = queue;
        self
    }

    /// Sets the order in which the waiting callers of one key are served. Default: [`Order::Fifo`].
    pub const fn order(mut self, order: Order) -> Self {
        self.settings.order = order;
        self
    }

    /// Limits how long a caller waits. Default: no limit.
    ///
    /// See [`EndpointGuardBuilder::max_wait`](crate::guard::EndpointGuardBuilder::max_wait).
    pub const fn max_wait(mut self, max_wait: Duration) -> Self {
        self.settings.limits.max_wait = Some(max_wait);
        self
    }

    /// Sets how long a granted permit is kept for a future that is not polled. Default: forever.
    ///
    /// See [`EndpointGuardBuilder::grant_timeout`](crate::guard::EndpointGuardBuilder::grant_timeout).
    pub const fn grant_timeout(mut self, grant_timeout: Duration) -> Self {
        self.settings.limits.grant_timeout = Some(grant_timeout);
        self
    }

    /// Limits how many keys may be in use at once. Must be at least 1. The caller of a further key is refused at once
    /// with [`TooManyKeys`](crate::AcquireError::TooManyKeys). Default: no limit.
    ///
    /// A key is in use while a caller holds a permit of it or waits for one, or keeps a future whose wait has ended
    /// without polling or dropping it. A key that is not in use takes no memory. So this setting bounds how many keys
    /// clients that make up keys can claim at the same moment.
    pub const fn max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = Some(max_keys);
        self
    }

    const_unless_loom! {
        /// Builds the guard.
        ///
        /// # Panics
        ///
        /// Panics if a value is out of range, as
        /// [`EndpointGuardBuilder::build`](crate::guard::EndpointGuardBuilder::build) does, or if `max_keys` is 0. In a
        /// `const` or `static` this is a compile error:
        ///
        /// ```compile_fail,E0080
        /// # use onelane::KeyedGuard;
        /// static NO_KEYS: KeyedGuard<u64> = KeyedGuard::builder("no keys").max_keys(0).build();
        /// ```
        #[must_use]
        pub fn build(self) -> KeyedGuard<K> {
            let Self { name, settings, max_keys, .. } = self;
            let limit = match max_keys {
                Some(0) => panic!("max_keys(0) admits no caller: use 1 or more, or close() the guard"),
                Some(max) => Some(KeyLimit::new(max)),
                None => None,
            };
            KeyedGuard::from_parts(name, settings.semaphore_config(), settings.limits, limit)
        }
    }
}

impl<K> fmt::Debug for KeyedGuardBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedGuardBuilder")
            .field("name", &self.name)
            .field("settings", &self.settings)
            .field("max_keys", &self.max_keys)
            .finish_non_exhaustive()
    }
}
