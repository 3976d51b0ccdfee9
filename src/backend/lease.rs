//! [`Lease`], what the holder of a distributed permit sees of its turn.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock;
use crate::debug::impl_debug;
use crate::sync::{Mutex, lock};

thread_local! {
    /// The leases of the guards that the code on this thread runs inside, the innermost one last.
    static CURRENT: RefCell<Vec<Lease>> = const { RefCell::new(Vec::new()) };
}

/// The turn of a holder among all processes. See [what such a lock can
/// promise](crate::backend#what-such-a-lock-can-promise).
///
/// A permit returns its lease from [`lease`](crate::guard::HeldPermit::lease). A handler behind a layer, and work
/// inside [`run`](crate::EndpointGuard::run), get it from [`current`](Self::current). The lease is
/// [lost](Self::is_lost) when the permit is released.
#[derive(Clone)]
pub struct Lease(Arc<Grant>);

/// One holder's part of a lease.
struct Grant {
    fence: u64,
    shared: Arc<SharedLease>,
    /// Cancelled when the lease is lost, and when this holder releases its permit.
    lost: CancellationToken,
}

/// The lease of a process, which several local callers may hold one after the other.
#[derive(Debug)]
pub(super) struct SharedLease {
    /// `None` if the lease does not expire.
    expires_at: Mutex<Option<Instant>>,
    lost: CancellationToken,
}

impl Lease {
    pub(super) fn new(fence: u64, shared: Arc<SharedLease>) -> Self {
        let lost = shared.lost.child_token();
        Self(Arc::new(Grant { fence, shared, lost }))
    }

    /// Returns the innermost lease that the current code runs under, if there is one.
    ///
    /// Code that [`run`](crate::EndpointGuard::run), `run_to_completion` or a web layer polls has a current lease. So
    /// do services with a [guard](crate::background::Service::guard) and their child tasks. Other tasks that this code
    /// spawns, and tasks of a pool, have none: pass them a clone.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|current| current.borrow().last().cloned()).ok().flatten()
    }

    /// Returns the fencing token: a number that is larger than the tokens of all earlier grants of the same guard.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.0.fence
    }

    /// Returns `true` if the lease has expired, or the permit was released. From then on, another process may hold the
    /// lock.
    ///
    /// This method compares the lease with the clock, so that a process that was stopped for longer than its lease
    /// notices the loss at once. On Linux, so does a process whose machine was suspended.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.lost.is_cancelled() || self.0.shared.has_expired(clock::now())
    }

    /// Returns a token that is cancelled when the lease is lost.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.0.lost.child_token()
    }

    /// Returns when the lease expires unless it is renewed. `None` if the lease ends with the process.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.shared.expires_at().map(clock::timer)
    }

    /// Makes the lease the [current](Self::current) one of this thread until the returned value is dropped. Returns
    /// `None` while the thread ends.
    pub(crate) fn enter(&self) -> Option<CurrentLease> {
        CURRENT.try_with(|current| current.borrow_mut().push(self.clone())).ok()?;
        Some(CurrentLease(()))
    }

    /// Records that the permit was released.
    pub(super) fn end(&self) {
        self.0.lost.cancel();
    }
}

impl SharedLease {
    pub(super) fn new(expires_at: Option<Instant>) -> Arc<Self> {
        Arc::new(Self { expires_at: Mutex::new(expires_at), lost: CancellationToken::new() })
    }

    pub(super) fn expires_at(&self) -> Option<Instant> {
        *lock(&self.expires_at)
    }

    /// Extends the lease. Returns `false` if the lease has already expired: its holder may have noticed that, and
    /// stopped its work for good.
    pub(super) fn extend(&self, expires_at: Instant) -> bool {
        let mut current = lock(&self.expires_at);
        // The clock is read while the mutex is held, so a holder that has already seen the lease expire can't have read
        // a later time.
        let has_expired = current.is_some_and(|at| at <= clock::now());
        if !has_expired {
            *current = Some(expires_at);
        }
        !has_expired
    }

    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }

    pub(super) fn is_lost(&self, now: Instant) -> bool {
        self.lost.is_cancelled() || self.has_expired(now)
    }

    pub(super) fn lose(&self) {
        self.lost.cancel();
    }
}

#[must_use = "the lease is current only until this is dropped"]
pub(crate) struct CurrentLease(());

impl Drop for CurrentLease {
    fn drop(&mut self) {
        // The lease is dropped outside of the borrow, because dropping its token may run other code.
        let ended = CURRENT.try_with(|current| current.borrow_mut().pop());
        drop(ended);
    }
}

impl_debug!(Lease |this| { fence: this.fence(), is_lost: this.is_lost(), .. });

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lease_that_has_expired_is_not_extended() {
        let (expired, now) = (SharedLease::new(Some(clock::now())), clock::now());
        assert!(!expired.extend(now + Duration::from_secs(60)));
        assert!(expired.is_lost(now));
        let held = SharedLease::new(Some(now + Duration::from_secs(30)));
        assert!(held.extend(now + Duration::from_secs(60)));
        assert!(!held.is_lost(now + Duration::from_secs(30)));
    }
}
