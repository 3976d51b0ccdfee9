//! [`AcquireAll`], the future that waits for a permit of each of several keys.

use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use tokio::time::Instant;

use super::acquire::AcquireKey;
use super::keyed_guard::KeyedGuard;
use super::permit::KeyedPermit;
use super::source::KeyedSource;
use crate::debug::impl_debug;
use crate::guard::error::AcquireError;

/// Waits for a permit of each of several keys. Created by [`KeyedGuard::acquire_all`].
#[must_use = "futures do nothing unless polled"]
pub struct AcquireAll<'a, K: Hash + Eq> {
    // Dropped in this order: the wait first, then the permits.
    next: Option<AcquireKey<'a, K>>,
    /// `None` once the future has completed.
    permits: Option<Vec<KeyedPermit<'a, K>>>,
    /// The keys after `next`.
    keys: vec::IntoIter<K>,
    guard: &'a KeyedGuard<K>,
    /// When the caller first had to wait: `max_wait` limits all its waits together.
    since: Option<Instant>,
}

/// A permit of each of several keys. Dropping it lets their next callers run.
#[must_use = "the permits are released as soon as this is dropped: bind it to a name such as `_permits`, not to `_`"]
pub struct KeyedPermits<'a, K: Hash + Eq>(Vec<KeyedPermit<'a, K>>);

impl<'a, K: Hash + Ord> AcquireAll<'a, K> {
    pub(super) fn new(guard: &'a KeyedGuard<K>, keys: impl IntoIterator<Item = K>) -> Self {
        let mut keys: Vec<K> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        Self { next: None, permits: Some(Vec::with_capacity(keys.len())), keys: keys.into_iter(), guard, since: None }
    }
}

impl<'a, K: Hash + Eq> Future for AcquireAll<'a, K> {
    type Output = Result<KeyedPermits<'a, K>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let permits = this.permits.as_mut().expect("an acquire_all future is not polled after it completed");
        loop {
            if this.next.is_none() {
                this.next =
                    this.keys.next().map(|key| AcquireKey::since(KeyedSource::new(this.guard, key), this.since));
            }
            let Some(next) = &mut this.next else { break };
            let result = Pin::new(&mut *next).poll(cx);
            this.since = next.began();
            let result = ready!(result);
            this.next = None;
            match result {
                Ok(permit) => permits.push(permit),
                Err(error) => {
                    this.permits = None;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(KeyedPermits(this.permits.take().expect("the permits were present above"))))
    }
}

impl<K: Hash + Eq> KeyedPermits<'_, K> {
    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns `true` if there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// Nothing in the future is structurally pinned.
impl<K: Hash + Eq> Unpin for AcquireAll<'_, K> {}

impl_debug!([K: Hash + Eq] AcquireAll<'_, K> |this| {
    guard: this.guard.name(), held: this.permits.as_ref().map(Vec::len), remaining: this.keys.len(), ..
});

impl_debug!([K: Hash + Eq] KeyedPermits<'_, K> |this| { permits: this.0 });
