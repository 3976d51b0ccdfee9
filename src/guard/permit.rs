//! [`Permit`] and [`OwnedPermit`], the right to run inside a guard.

use std::mem;
use std::thread;

use tokio::time::Instant;

use super::endpoint_guard::{EndpointGuard, SharedGuard};
use super::error::AcquireError;
use super::error_kind::AcquireErrorKind;
use super::source::PermitSource;
#[cfg(any(feature = "tower", feature = "actix-web"))]
use super::trace;
use crate::backend::{BackendError, Lease, Turn};
use crate::debug::impl_debug;
use crate::scope::{Hold, Scope, ScopeId};
use crate::semaphore::ReleaseOutcome;

/// The right to run inside a guard. Dropping it lets the next caller run.
///
/// Bind it to a name, such as `_permit`: `let _ = guard.acquire().await?;` releases the permit at once.
///
/// A permit that is dropped by a panic is released, too: nothing is poisoned, as with tokio's `Mutex`.
pub type Permit<'a> = HeldPermit<&'a EndpointGuard>;

/// An owned [`Permit`]. It shares ownership of the guard, so it can move to another task or thread.
///
/// Dropping it lets the next caller run, even during a panic.
pub type OwnedPermit = HeldPermit<SharedGuard>;

/// A permit of `S`: a guard, or a guard and one of its keys.
///
/// [`Permit`], [`OwnedPermit`], [`KeyedPermit`](super::KeyedPermit) and [`OwnedKeyedPermit`](super::OwnedKeyedPermit)
/// are aliases of this type.
#[must_use = "the permit is released as soon as it is dropped: bind it to a name such as `_permit`, not to `_`"]
pub struct HeldPermit<S: PermitSource> {
    source: S,
    release: Release,
    /// Indicates to captured scopes of the guard that the permit is still held.
    hold: Hold,
}

/// What happens when a permit is dropped.
#[derive(Debug)]
enum Release {
    Untimed,
    /// The permit is released, and the time since this instant is recorded as its hold time.
    TimedSince(Instant),
    /// The guard is distributed, and the permit has a turn among all processes.
    Distributed(Box<DistributedRelease>),
    /// The permit is never released.
    Never,
}

#[derive(Debug)]
struct DistributedRelease {
    turn: Turn,
    timed_since: Option<Instant>,
}

impl<S: PermitSource> HeldPermit<S> {
    /// Wraps a permit that was just acquired from `source`.
    #[inline]
    pub(super) fn new(source: S) -> Self {
        let release = source.core().hold_time.start().map_or(Release::Untimed, Release::TimedSince);
        Self { source, release, hold: Hold::default() }
    }

    /// Acquires a permit without waiting, including one whose grant has expired.
    #[inline]
    pub(super) fn try_acquire(mut source: S) -> Result<Self, AcquireError> {
        if source.core().domain.is_some() {
            return Err(source.core().error(AcquireErrorKind::NotLocal));
        }
        if let Err(refusal) = source.try_acquire() {
            let expires = source.core().limits.grant_timeout.is_some();
            if !(expires && source.expire_now() && source.try_acquire().is_ok()) {
                return Err(source.error(refusal));
            }
        }
        Ok(Self::new(source))
    }

    /// Removes the permit from use permanently: the guard, or the key of a keyed guard, has one fewer permit from now
    /// on. With a single permit, all other callers wait until `max_wait` has passed or the guard is closed.
    ///
    /// If the guard is [distributed](super::GuardBuilder::distributed), this process admits no more callers, and other
    /// processes continue.
    ///
    /// The permit still counts as [held](super::GuardStats::held), and also as
    /// [forgotten](super::GuardStats::forgotten). `drained` does not wait for forgotten permits. A key with a forgotten
    /// permit stays in use.
    ///
    /// ```
    /// use onelane::EndpointGuard;
    ///
    /// let guard = EndpointGuard::builder("converters").permits(2).build();
    /// // The converter of this permit hangs, so no other caller may use the converter.
    /// guard.try_acquire()?.forget();
    /// let _last = guard.try_acquire()?;
    /// assert!(guard.try_acquire().is_err());
    /// # Ok::<(), onelane::AcquireError>(())
    /// ```
    pub fn forget(mut self) {
        self.release = Release::Never;
        if self.source.forget() {
            self.source.core().notify_drained();
        }
    }

    /// Returns the permit's lease, which carries its fencing token. `None` if the guard is not
    /// [distributed](super::GuardBuilder::distributed), or if the store did not answer and the caller [runs without
    /// it](crate::backend::WhenUnavailable::FailLocal).
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.turn().map(Turn::lease)
    }

    /// Releases the permit, and waits until the store of a distributed guard has released the lock. Dropping the permit
    /// releases it without waiting.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lock is still released.
    ///
    /// # Errors
    ///
    /// Returns the store's error. The lock then becomes free when its lease expires.
    pub async fn release(mut self) -> Result<(), BackendError> {
        let Some(turn) = self.take_turn() else { return Ok(()) };
        let released = turn.release().await;
        drop(self);
        released
    }

    #[inline]
    fn turn(&self) -> Option<&Turn> {
        if let Release::Distributed(release) = &self.release { Some(&release.turn) } else { None }
    }

    /// Takes the turn. The permit is then released like one of a guard that is not distributed.
    fn take_turn(&mut self) -> Option<Turn> {
        self.turn()?;
        let Release::Distributed(release) = mem::replace(&mut self.release, Release::Untimed) else { return None };
        let DistributedRelease { turn, timed_since } = *release;
        self.release = timed_since.map_or(Release::Untimed, Release::TimedSince);
        Some(turn)
    }

    /// Adds the turn among all processes.
    pub(super) fn set_turn(&mut self, turn: Option<Turn>) {
        let Some(turn) = turn else { return };
        let timed_since = if let Release::TimedSince(since) = self.release { Some(since) } else { None };
        self.release = Release::Distributed(Box::new(DistributedRelease { turn, timed_since }));
    }

    /// Returns the lease if its loss cancels the handler of a web layer.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn lease_that_cancels(&self) -> Option<&Lease> {
        self.turn().and_then(Turn::lease_that_cancels)
    }

    /// Releases a permit that is timed, or has a turn among all processes. Returns `None` if it is never released.
    #[cold]
    #[inline(never)]
    fn release_slowly(&mut self) -> Option<ReleaseOutcome> {
        let turn = self.take_turn();
        match self.release {
            Release::TimedSince(since) => self.source.core().hold_time.finish(since, self.source.permits()),
            Release::Never => return None,
            Release::Untimed | Release::Distributed(_) => {}
        }
        Some(match turn {
            Some(turn) => self.release_turn(turn),
            None => self.source.release(),
        })
    }

    /// Ends the turn among all processes, and releases the permit.
    fn release_turn(&mut self, turn: Turn) -> ReleaseOutcome {
        if self.source.waiting() == 0 {
            // First, so that the next caller of this process finds the lock free.
            turn.give_back();
            return self.source.release();
        }
        let left = self.source.left_turn();
        turn.pass_on();
        let outcome = self.source.release();
        if outcome != ReleaseOutcome::PassedOn {
            self.source.clear_turn(left);
        }
        outcome
    }

    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// Marks the current thread as inside the guard.
    pub(crate) fn enter_scope(&mut self) -> Scope<'_> {
        Scope::enter(self.scope(), &mut self.hold)
    }

    pub(crate) fn scope(&self) -> ScopeId {
        self.source.scope().expect("a held permit has a scope")
    }

    /// Returns the hold of the permit. The hold can be taken out while another owner may release the permit.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn hold_mut(&mut self) -> &mut Hold {
        &mut self.hold
    }

    /// Counts a permit that was released before its response body had ended.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn count_overrun(&self) {
        self.source.core().counters.overrun.add(1);
        trace::overrun(&self.source);
    }
}

impl<S: PermitSource> Drop for HeldPermit<S> {
    #[inline]
    fn drop(&mut self) {
        // Before the release: a task that waits for the permit must not be refused once the permit is available.
        self.hold.end();
        let core = self.source.core();
        if thread::panicking() {
            core.counters.panicked.add(1);
        }
        let outcome = match self.release {
            Release::Untimed => self.source.release(),
            _ => match self.release_slowly() {
                Some(outcome) => outcome,
                None => return,
            },
        };
        if outcome == ReleaseOutcome::Drained {
            self.source.core().notify_drained();
        }
    }
}

impl_debug!([S: PermitSource] HeldPermit<S> |this| { guard: this.source.core().name });
