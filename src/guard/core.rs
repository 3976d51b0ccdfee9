//! [`GuardCore`], the state that every guard has in addition to its semaphores.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::error::AcquireError;
use super::error_kind::AcquireErrorKind;
use super::hold_time::HoldTime;
use super::key_map::Hash64;
use super::retry::RetryEstimate;
use super::stats::GuardStats;
use super::trace;
use crate::backend::LockDomain;
use crate::counter::Counter;
use crate::name::{NameRef, intern};
use crate::semaphore::{SemaphoreSnapshot, WaitTotals};
use crate::shared::{Shareable, Shared};
use crate::sync::const_unless_loom;
use crate::wake::Contained;

/// The state that every guard has in addition to its semaphores.
#[derive(Debug)]
pub(crate) struct GuardCore {
    pub(super) hold_time: HoldTime,
    pub(super) limits: WaitLimits,
    pub(super) counters: GuardCounters,
    pub(super) drained: Notify,
    pub(super) name: &'static str,
    /// The processes over which the guard is distributed.
    pub(super) domain: Option<&'static LockDomain>,
    /// Set by the first refusal.
    name_ref: OnceLock<NameRef>,
}

/// A guard of any kind.
pub(crate) trait HasGuardCore {
    fn core(&self) -> &GuardCore;
}

impl<T: HasGuardCore + Shareable> HasGuardCore for Shared<T> {
    fn core(&self) -> &GuardCore {
        (**self).core()
    }
}

/// The limits of a guard on the waits of its callers.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitLimits {
    pub(super) max_wait: Option<Duration>,
    pub(super) grant_timeout: Option<Duration>,
    /// `true` if a newer caller may evict a waiter from a full queue.
    pub(super) evicts: bool,
}

/// The counters of events that no semaphore counts.
#[derive(Debug)]
pub(super) struct GuardCounters {
    pub(super) refused: Counter,
    pub(super) timed_out: Counter,
    pub(super) expired: Counter,
    pub(super) panicked: Counter,
    pub(super) detached: Counter,
    pub(super) ended_detached: Counter,
    pub(super) finished_detached: Counter,
    pub(super) cut_off: Counter,
    pub(super) overrun: Counter,
}

impl GuardCore {
    const_unless_loom! {
        pub(super) fn new(name: &'static str, limits: WaitLimits, domain: Option<&'static LockDomain>) -> Self {
            Self {
                hold_time: HoldTime::new(),
                limits,
                counters: GuardCounters::new(),
                drained: Notify::const_new(),
                name,
                domain,
                name_ref: OnceLock::new(),
            }
        }
    }

    /// Returns the guard's name for an error.
    #[inline]
    pub(super) fn name_ref(&self) -> NameRef {
        self.name_ref.get_or_init(|| intern(Cow::Borrowed(self.name)))
    }

    pub(super) fn error(&self, kind: AcquireErrorKind) -> AcquireError {
        AcquireError::new(Some(self.name_ref()), kind, RetryEstimate::NONE)
    }

    /// Returns the time to record with a grant, if grants expire.
    pub(super) fn grant_time(&self) -> Option<Instant> {
        self.limits.grant_timeout.map(|_| Instant::now())
    }

    /// Returns the latest time at which a grant that has expired by `now` was made.
    pub(super) fn expiry_limit(&self, now: Instant) -> Option<Instant> {
        self.limits.grant_timeout.and_then(|timeout| now.checked_sub(timeout))
    }

    /// Counts expired grants. `key_hash` is `None` if the grants belong to several keys, or to no key.
    pub(super) fn count_expired(&self, key_hash: Option<Hash64>, grants: usize) {
        self.counters.expired.add(grants as u64);
        trace::expired(self, key_hash, grants);
    }

    /// Notifies every caller of [`drained`](Self::drained).
    pub(super) fn notify_drained(&self) {
        self.drained.notify_waiters();
    }

    /// Waits until `is_drained` returns `true`. Every waiting caller is notified.
    pub(super) async fn drained(&self, is_drained: impl Fn() -> bool, expire: impl Fn(Instant)) {
        loop {
            // Registered before the check, so that no notification is missed in between.
            let notified = Contained(pin!(self.drained.notified()));
            if is_drained() {
                return;
            }
            match self.limits.grant_timeout {
                None => notified.await,
                // No caller is waiting any more, so nothing else expires an untaken grant.
                Some(limit) => {
                    if timeout(limit, notified).await.is_err() {
                        expire(Instant::now());
                    }
                }
            }
        }
    }

    /// Returns the statistics of a guard. `semaphores` and `waits` are the sums over its semaphores.
    pub(super) fn stats(&self, permits: usize, semaphores: SemaphoreSnapshot, waits: WaitTotals) -> GuardStats {
        let counters = &self.counters;
        GuardStats {
            name: Cow::Borrowed(self.name),
            permits,
            held: semaphores.held,
            waiting: semaphores.waiting,
            detached: counters.detached.value().saturating_sub(counters.ended_detached.value()),
            closed: semaphores.is_closed,
            mean_hold: self.hold_time.mean(),
            granted: semaphores.granted,
            queued: waits.queued,
            refused: counters.refused.value() + waits.evicted,
            timed_out: counters.timed_out.value(),
            cancelled: waits.cancelled,
            expired: counters.expired.value(),
            panicked: counters.panicked.value(),
            finished_detached: counters.finished_detached.value(),
            cut_off: counters.cut_off.value(),
            forgotten: waits.forgotten,
            overrun: counters.overrun.value(),
        }
    }
}

impl GuardCounters {
    const_unless_loom! {
        fn new() -> Self {
            Self {
                refused: Counter::new(),
                timed_out: Counter::new(),
                expired: Counter::new(),
                panicked: Counter::new(),
                detached: Counter::new(),
                ended_detached: Counter::new(),
                finished_detached: Counter::new(),
                cut_off: Counter::new(),
                overrun: Counter::new(),
            }
        }
    }
}
