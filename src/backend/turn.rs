//! [`Turn`], the turn of this process among all processes, in the hands of one of its callers.

use std::sync::Arc;

use tokio::time::Instant;

use super::connected::{Connected, ReleaseCall};
use super::keeper::LeaseKey;
use super::lease::{Lease, SharedLease};
use super::lock_backend::LeaseId;
use crate::debug::impl_debug;
use crate::panic::{catch, discard};
use crate::sync::lock;

/// The turn of this process, in the hands of one of its callers. Dropping it releases the lock.
pub(crate) struct Turn {
    // Ends before the lock is released.
    lease: HeldLease,
    process_turn: ProcessTurn,
}

/// The lease of a caller that holds the turn. It ends when it is dropped.
struct HeldLease(Lease);

/// The turn of this process, which its callers pass on to each other.
pub(super) struct ProcessTurn {
    connected: Arc<Connected>,
    shared: Arc<SharedLease>,
    /// `None` once the lock is being released.
    id: Option<LeaseId>,
    /// `None` if the lease does not expire.
    key: Option<LeaseKey>,
    began: Instant,
    /// How many callers of this process have had the turn.
    callers: u32,
}

/// What a caller leaves for the next caller in this process.
pub(super) enum Parked {
    Turn(ProcessTurn),
    /// The lock is being released, so that other processes get it. The next caller waits for the result.
    Release(ReleaseCall),
}

impl Turn {
    pub(super) fn new(mut process_turn: ProcessTurn) -> Self {
        let first = process_turn.id.as_ref().and_then(|id| id.fence).unwrap_or_default();
        let lease = Lease::new(first + u64::from(process_turn.callers), Arc::clone(&process_turn.shared));
        process_turn.callers += 1;
        process_turn.limit_hold();
        Self { lease: HeldLease(lease), process_turn }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease.0
    }

    /// Returns the lease if its loss cancels the handler of a web layer.
    pub(crate) fn lease_that_cancels(&self) -> Option<&Lease> {
        self.process_turn.connected.options.cancels().then_some(&self.lease.0)
    }

    /// Ends the turn of this caller while another one waits in this process. If the next one does not come for it,
    /// [`LockDomain::clear`](super::LockDomain::clear) releases the lock.
    pub(crate) fn pass_on(self) {
        let Self { lease, process_turn } = self;
        drop(lease);
        let connected = Arc::clone(&process_turn.connected);
        let Some(id) = &process_turn.id else { return };
        let name = id.lock.clone();
        let parked = if process_turn.may_pass_on() {
            Parked::Turn(process_turn)
        } else {
            let Some(mut call) = process_turn.into_release() else { return };
            if catch(|| call.begin()).is_err() {
                return;
            }
            Parked::Release(call)
        };
        let replaced = lock(&connected.parked).insert(name, parked);
        discard(replaced);
    }

    /// Ends the turn, and waits until the store has released the lock.
    pub(crate) async fn release(self) -> Result<(), super::BackendError> {
        let Self { lease, process_turn } = self;
        drop(lease);
        match process_turn.into_release() {
            Some(call) => call.await.map(drop),
            None => Ok(()),
        }
    }
}

impl ProcessTurn {
    pub(super) fn new(connected: Arc<Connected>, id: LeaseId, began: Instant) -> Self {
        let expires_at = connected.keeper.expiry(began);
        let shared = SharedLease::new(expires_at);
        let key = expires_at.map(|_| connected.keeper.watch(id.clone(), Arc::clone(&shared), began));
        Self { connected, shared, id: Some(id), key, began, callers: 0 }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.shared.is_lost(Instant::now())
    }

    /// Returns `true` if the next caller in this process may have the turn, before other processes.
    fn may_pass_on(&self) -> bool {
        let options = &self.connected.options;
        let now = Instant::now();
        self.callers < options.cohort_turns
            && now.saturating_duration_since(self.began) < options.cohort_time
            && !self.shared.is_lost(now)
    }

    /// Limits for how long the lease is renewed for the caller that takes it now.
    fn limit_hold(&self) {
        if let (Some(key), Some(max_hold)) = (self.key, self.connected.options.max_hold) {
            self.connected.keeper.renew_until(key, Instant::now().checked_add(max_hold));
        }
    }

    /// Returns the call that releases the lock.
    fn into_release(mut self) -> Option<ReleaseCall> {
        self.end()
    }

    fn end(&mut self) -> Option<ReleaseCall> {
        let id = self.id.take()?;
        if let Some(key) = self.key {
            self.connected.keeper.forget(key);
        }
        self.shared.lose();
        Some(self.connected.release(id))
    }
}

impl Drop for ProcessTurn {
    fn drop(&mut self) {
        if let Ok(Some(call)) = catch(|| self.end()) {
            call.let_go();
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        // Ending it wakes tasks, whose wakers are user code.
        let _ = catch(|| self.0.end());
    }
}

impl_debug!(Turn |this| { lease: this.lease.0, .. });
