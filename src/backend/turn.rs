//! [`Turn`], the turn of this process among all processes, held by one of its callers.

use std::mem;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::clock;
use super::connected::{Connected, ReleaseCall};
use super::keeper::LeaseKey;
use super::lease::{Lease, SharedLease};
use super::lock_backend::{LeaseId, LockName, Released};
use crate::debug::impl_debug;
use crate::panic::{catch, discard};

/// The turn of this process, held by one of its callers. Dropping the turn releases the lock.
pub(crate) struct Turn {
    // Ends before the lock is released.
    lease: HeldLease,
    process_turn: ProcessTurn,
}

/// The lease of a caller that holds the turn. Dropping this value ends the lease.
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
    /// A task ends the cohort when its time is over.
    is_cohort_limited: bool,
}

/// What a caller leaves for the next caller in this process.
pub(super) enum Parked {
    Turn(ProcessTurn),
    /// The lock is being released, so that other processes get it. The next caller waits for the result.
    Release(oneshot::Receiver<Released>),
    /// Other processes waited for the lock when it was released. The next caller lets `waiting` of them go first.
    StepBack {
        waiting: usize,
        until: Instant,
    },
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

    /// Ends the turn of this caller while another caller waits in this process. If no caller takes the turn,
    /// [`LockDomain::clear`](super::LockDomain::clear) releases the lock, as does the end of the cohort's time.
    pub(crate) fn pass_on(self) {
        let Self { lease, mut process_turn } = self;
        drop(lease);
        let Some(name) = process_turn.id.as_ref().map(|id| id.lock.clone()) else { return };
        let connected = Arc::clone(&process_turn.connected);
        if process_turn.may_pass_on() {
            process_turn.limit_cohort(&name);
            // If the domain is disconnected, no caller takes the turn, and dropping it releases the lock.
            discard(connected.parked.park(name, Parked::Turn(process_turn)));
        } else if let Some(call) = process_turn.end() {
            let released = connected.park_release(name);
            complete(&connected, call, released);
        }
    }

    /// Ends the turn while no caller waits in this process.
    pub(crate) fn give_back(self) {
        let Self { lease, mut process_turn } = self;
        drop(lease);
        let Some(name) = process_turn.id.as_ref().map(|id| id.lock.clone()) else { return };
        let connected = Arc::clone(&process_turn.connected);
        if let Some(call) = process_turn.end() {
            let remembering = Arc::clone(&connected);
            complete(&connected, call, move |released| remembering.step_back_from(name, released.waiting));
        }
    }

    /// Ends the turn, and waits until the store has released the lock.
    pub(crate) async fn release(self) -> Result<(), super::BackendError> {
        let Self { lease, mut process_turn } = self;
        drop(lease);
        let Some(name) = process_turn.id.as_ref().map(|id| id.lock.clone()) else { return Ok(()) };
        let connected = Arc::clone(&process_turn.connected);
        let Some(call) = process_turn.end() else { return Ok(()) };
        let released = call.await?;
        connected.step_back_from(name, released.waiting);
        Ok(())
    }
}

impl Parked {
    pub(super) fn is_turn(&self) -> bool {
        matches!(self, Self::Turn(_))
    }
}

impl ProcessTurn {
    pub(super) fn new(connected: Arc<Connected>, id: LeaseId, began: Instant) -> Self {
        let expires_at = connected.keeper.expiry(began);
        let shared = SharedLease::new(expires_at);
        let key = expires_at.map(|_| connected.keeper.watch(id.clone(), Arc::clone(&shared), began));
        Self { connected, shared, id: Some(id), key, began, callers: 0, is_cohort_limited: false }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.shared.is_lost(clock::now())
    }

    /// Returns `true` if the next caller in this process may have the turn, before other processes.
    fn may_pass_on(&self) -> bool {
        let options = &self.connected.options;
        let now = clock::now();
        self.callers < options.cohort_turns
            && now.saturating_duration_since(self.began) < options.cohort_time
            && !self.shared.is_lost(now)
    }

    /// Limits how long the lease is renewed for the caller that now takes the turn.
    fn limit_hold(&self) {
        if let (Some(key), Some(max_hold)) = (self.key, self.connected.options.max_hold) {
            self.connected.keeper.renew_until(key, clock::now().checked_add(max_hold));
        }
    }

    /// Releases the lock at the end of the cohort's time, if the next caller has not taken the turn by then.
    fn limit_cohort(&mut self, name: &LockName) {
        if mem::replace(&mut self.is_cohort_limited, true) {
            return;
        }
        let (connected, name, began) = (Arc::downgrade(&self.connected), name.clone(), self.began);
        let Some(ends_at) = began.checked_add(self.connected.options.cohort_time) else { return };
        self.connected.keeper.spawn(async move {
            sleep_until(clock::timer(ends_at)).await;
            let is_this = |left: &Parked| matches!(left, Parked::Turn(turn) if turn.began == began);
            discard(connected.upgrade().map(|connected| connected.parked.unpark_if(&name, is_this)));
        });
    }

    /// Returns the call that releases the lock.
    fn end(&mut self) -> Option<ReleaseCall> {
        let id = self.id.take()?;
        if let Some(key) = self.key {
            self.connected.keeper.forget(key);
        }
        self.shared.lose();
        Some(self.connected.release(id))
    }
}

/// Completes a release, and calls `then` with its result. The store has begun the release when this function returns.
fn complete(connected: &Connected, mut call: ReleaseCall, then: impl FnOnce(Released) + Send + 'static) {
    match call.begin() {
        Some(result) => then(result.unwrap_or_default()),
        None => connected.keeper.spawn(async move { then(call.await.unwrap_or_default()) }),
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
        // Ending the lease wakes tasks, whose wakers are user code.
        let _ = catch(|| self.0.end());
    }
}

impl_debug!(Turn |this| { lease: this.lease.0, .. });
