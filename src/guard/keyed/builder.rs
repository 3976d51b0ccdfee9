//! [`KeyedGuardBuilder`].

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::key_semaphore::KeyLimit;
use super::keyed_guard::KeyedGuard;
use crate::guard::builder::{Choices, Queue};
use crate::semaphore::Order;

/// Builds a [`KeyedGuard`], in a `const` too. All settings but [`max_keys`](Self::max_keys) are each key's own.
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
    choices: Choices,
    max_keys: Option<usize>,
    keys: PhantomData<fn(K)>,
}

impl<K> KeyedGuardBuilder<K> {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, choices: Choices::new(), max_keys: None, keys: PhantomData }
    }

    /// How many callers of one key may be inside at once, from 1 to 65,535. Default: 1.
    pub const fn permits(mut self, permits: usize) -> Self {
        self.choices.permits = permits;
        self
    }

    /// How many callers of one key may wait. Default: [`Queue::Unbounded`].
    pub const fn queue(mut self, queue: Queue) -> Self {
        self.choices.queue = queue;
        self
    }

    /// Who of those that wait for one key goes first. Default: [`Order::Fifo`].
    pub const fn order(mut self, order: Order) -> Self {
        self.choices.order = order;
        self
    }

    /// How long a caller waits at most, as with [`EndpointGuardBuilder::max_wait`](crate::EndpointGuardBuilder::max_wait).
    /// Default: no limit.
    pub const fn max_wait(mut self, max_wait: Duration) -> Self {
        self.choices.limits.max_wait = Some(max_wait);
        self
    }

    /// How long a turn that has come is kept for a future that nobody polls, as with
    /// [`EndpointGuardBuilder::grant_timeout`](crate::EndpointGuardBuilder::grant_timeout). Default: for ever.
    pub const fn grant_timeout(mut self, grant_timeout: Duration) -> Self {
        self.choices.limits.grant_timeout = Some(grant_timeout);
        self
    }

    /// How many keys may be in use at once, from 1 on. The caller of one more is refused with
    /// [`TooManyKeys`](crate::AcquireError::TooManyKeys), at once. Default: no limit.
    ///
    /// A key is in use as long as someone holds a permit of it or waits for one (or holds on to a future whose wait has
    /// ended, without polling or dropping it); an idle key takes no memory, whatever
    /// its name. So this bounds what clients who make up keys can claim at the same moment.
    pub const fn max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = Some(max_keys);
        self
    }

    /// Builds the guard.
    ///
    /// # Panics
    ///
    /// If a value is out of its range, as with [`EndpointGuardBuilder::build`](crate::EndpointGuardBuilder::build), or
    /// `max_keys` is 0. In a `const` or `static` that is a compile error:
    ///
    /// ```compile_fail,E0080
    /// # use onelane::KeyedGuard;
    /// static NOBODY: KeyedGuard<u64> = KeyedGuard::builder("nobody").max_keys(0).build();
    /// ```
    #[must_use]
    pub const fn build(self) -> KeyedGuard<K> {
        let Self { name, choices, max_keys, .. } = self;
        let limit = match max_keys {
            Some(0) => panic!("max_keys(0) would admit nobody: give 1 or more, or close() the guard"),
            Some(most) => Some(KeyLimit::new(most)),
            None => None,
        };
        KeyedGuard::from_parts(name, choices.rules(), choices.limits, limit)
    }
}

impl<K> fmt::Debug for KeyedGuardBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedGuardBuilder")
            .field("name", &self.name)
            .field("choices", &self.choices)
            .field("max_keys", &self.max_keys)
            .finish_non_exhaustive()
    }
}
