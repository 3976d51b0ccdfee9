//! [`Keeper`], the thread that renews leases and declares them lost.
//!
//! The thread has its own runtime, so that a handler that blocks its thread delays no renewal. A lease is lost as soon
//! as it has expired by the clock of this process, whether the store answers or not.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clock;
use super::connected::{call_limit, limited};
use super::lease::SharedLease;
use super::lock_backend::{LeaseId, LockBackend};
use super::trace;
use crate::debug::impl_debug;
use crate::own_runtime::OwnRuntime;
use crate::panic::catch;
use crate::sync::{Mutex, lock};

/// The thread of a connected domain. It ends when this value is dropped.
pub(super) struct Keeper {
    handle: Handle,
    leases: Arc<Leases>,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// Identifies a lease that the keeper renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LeaseKey(u64);

struct Leases {
    /// `None` if leases don't expire.
    duration: Option<Duration>,
    state: Mutex<LeasesState>,
    /// Notified when a lease begins while there is no other lease, and when a renewal may be due earlier than before.
    begun: Notify,
}

#[derive(Default)]
struct LeasesState {
    next_key: u64,
    watched: HashMap<LeaseKey, WatchedLease>,
}

struct WatchedLease {
    id: LeaseId,
    shared: Arc<SharedLease>,
    renew_at: Instant,
    /// The lease is not renewed after this time. `None` means no limit.
    renew_until: Option<Instant>,
    is_being_renewed: bool,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(name: &str, duration: Option<Duration>) -> io::Result<Self> {
        let runtime = OwnRuntime::build(&mut Builder::new_current_thread())?;
        let leases = Arc::new(Leases { duration, state: Mutex::new(LeasesState::default()), begun: Notify::new() });
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let keeper = Self { handle: runtime.handle().clone(), leases, stop, ended };
        let (stop, ended) = (keeper.stop.clone(), keeper.ended.clone().drop_guard());
        thread::Builder::new().name(format!("locks {name}")).spawn(move || {
            runtime.block_on(stop.cancelled());
            drop(runtime);
            drop(ended);
        })?;
        Ok(keeper)
    }

    /// Begins to renew leases in a store.
    pub(super) fn renew_in(&self, backend: Arc<dyn LockBackend>) {
        self.spawn(renew_all(Arc::clone(&self.leases), backend));
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Returns a token that is cancelled when the thread has ended.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Returns when a lease that was requested or renewed at this time expires.
    pub(super) fn expiry(&self, began: Instant) -> Option<Instant> {
        self.leases.expiry(began)
    }

    /// Begins to renew a lease.
    pub(super) fn watch(&self, id: LeaseId, shared: Arc<SharedLease>, began: Instant) -> LeaseKey {
        let renew_at = self.leases.renewal(began);
        let lease = WatchedLease { id, shared, renew_at, renew_until: None, is_being_renewed: false };
        let mut state = lock(&self.leases.state);
        let key = LeaseKey(state.next_key);
        state.next_key += 1;
        let is_first = state.watched.is_empty();
        state.watched.insert(key, lease);
        drop(state);
        if is_first {
            self.leases.begun.notify_one();
        }
        key
    }

    /// Limits how long a lease is renewed.
    pub(super) fn renew_until(&self, key: LeaseKey, until: Option<Instant>) {
        let now = clock::now();
        let mut state = lock(&self.leases.state);
        let Some(lease) = state.watched.get_mut(&key) else { return };
        let was_limited = lease.is_limited(now);
        lease.renew_until = until;
        drop(state);
        if was_limited {
            // The renewals of this lease had ended, so the thread waits for the lease to expire.
            self.leases.begun.notify_one();
        }
    }

    /// Ends the renewals of a lease.
    pub(super) fn forget(&self, key: LeaseKey) {
        let forgotten = lock(&self.leases.state).watched.remove(&key);
        drop(forgotten);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = catch(|| self.stop.cancel());
    }
}

impl Leases {
    /// A hundredth of the lease is a margin for clocks that run at different speeds.
    fn expiry(&self, began: Instant) -> Option<Instant> {
        self.duration.map(|duration| began + (duration - duration / 100))
    }

    fn renewal(&self, began: Instant) -> Instant {
        began + self.duration.unwrap_or_default() / 3
    }

    /// Declares expired leases lost. Returns the leases to renew now, and when to check again.
    fn due(&self, now: Instant) -> (Vec<(LeaseKey, LeaseId)>, Option<Instant>) {
        // Leases that are due soon are renewed with the others, in one round trip.
        let soon = now + self.duration.unwrap_or_default() / 10;
        let (mut due, mut lost, mut next) = (Vec::new(), Vec::new(), None::<Instant>);
        let mut state = lock(&self.state);
        let is_due = state.watched.values().any(|lease| lease.wants_renewal(now) && lease.renew_at <= now);
        state.watched.retain(|key, lease| {
            let expires_at = lease.shared.expires_at().unwrap_or(now);
            if expires_at <= now {
                lost.push((lease.id.lock.guard(), Arc::clone(&lease.shared)));
                return false;
            }
            let wants_renewal = lease.wants_renewal(now);
            if is_due && wants_renewal && lease.renew_at <= soon {
                lease.is_being_renewed = true;
                due.push((*key, lease.id.clone()));
            }
            let look_at = if wants_renewal && !lease.is_being_renewed { lease.renew_at } else { expires_at };
            next = Some(next.map_or(look_at, |next| next.min(look_at)));
            true
        });
        drop(state);
        lost.iter().for_each(|(guard, lease)| {
            trace::lease_expired(guard);
            let _ = catch(|| lease.lose());
        });
        (due, next)
    }

    /// Records the result of a renewal that was requested at `began`.
    fn renewed(&self, began: Instant, key: LeaseKey, is_held: bool) {
        let mut state = lock(&self.state);
        let Some(lease) = state.watched.get_mut(&key) else { return };
        if let Some(expires_at) = self.expiry(began).filter(|_| is_held)
            && lease.shared.extend(expires_at)
        {
            lease.renew_at = self.renewal(began);
            lease.is_being_renewed = false;
            return;
        }
        let lost = state.watched.remove(&key);
        drop(state);
        if let Some(lease) = lost {
            let guard = lease.id.lock.guard();
            if is_held {
                trace::lease_expired(guard);
            } else {
                trace::lease_taken(guard);
            }
            let _ = catch(|| lease.shared.lose());
        }
    }

    /// Schedules the next attempt after a renewal has failed.
    fn retry(&self, keys: impl Iterator<Item = LeaseKey>) {
        let renew_at = clock::now() + self.duration.unwrap_or_default() / 10;
        let mut state = lock(&self.state);
        for key in keys {
            if let Some(lease) = state.watched.get_mut(&key) {
                lease.renew_at = renew_at;
                lease.is_being_renewed = false;
            }
        }
    }
}

impl WatchedLease {
    fn wants_renewal(&self, now: Instant) -> bool {
        !self.is_being_renewed && !self.is_limited(now)
    }

    fn is_limited(&self, now: Instant) -> bool {
        self.renew_until.is_some_and(|until| until <= now)
    }
}

/// Renews leases for as long as the runtime exists.
async fn renew_all(leases: Arc<Leases>, backend: Arc<dyn LockBackend>) {
    loop {
        // Registered before the check, so that no lease is missed in between.
        let mut begun = pin!(leases.begun.notified());
        let (due, next) = leases.due(clock::now());
        if !due.is_empty() {
            tokio::spawn(renew(Arc::clone(&leases), Arc::clone(&backend), due));
        }
        match next {
            None => begun.await,
            Some(at) => {
                let mut timer = pin!(sleep_until(clock::timer(at)));
                let wait = poll_fn(|cx| {
                    let is_ready = begun.as_mut().poll(cx).is_ready() || timer.as_mut().poll(cx).is_ready();
                    if is_ready { Poll::Ready(()) } else { Poll::Pending }
                });
                wait.await;
            }
        }
    }
}

async fn renew(leases: Arc<Leases>, backend: Arc<dyn LockBackend>, due: Vec<(LeaseKey, LeaseId)>) {
    let (keys, ids): (Vec<_>, Vec<_>) = due.into_iter().unzip();
    let began = clock::now();
    match limited(call_limit(leases.duration), || backend.renew(&ids)).await {
        Ok(held) if held.len() == keys.len() => {
            keys.iter().zip(held).for_each(|(key, is_held)| leases.renewed(began, *key, is_held));
        }
        Ok(_) => leases.retry(keys.into_iter()),
        Err(error) => {
            trace::renewal_failed(&error, ids.len());
            leases.retry(keys.into_iter());
        }
    }
    // The loop checks again, because the next renewal may now be due earlier.
    leases.begun.notify_one();
}

impl_debug!(Keeper |this| { leases: lock(&this.leases.state).watched.len(), .. });
