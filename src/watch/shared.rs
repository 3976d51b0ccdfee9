//! [`Shared`], the state that a watch and its thread share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use super::report::{Blocked, Report};
use super::slot::register_thread;
use super::stack::Capture;
use super::stats::{LabelStats, WatchStats};
use crate::debug::impl_debug;

/// User code that receives each report.
pub(super) type Callback = Box<dyn Fn(&Report) + Send + Sync>;

/// The greatest interval between samples. This interval bounds the delay of a report.
const MAX_INTERVAL: Duration = Duration::from_millis(20);

/// The settings of a watch.
pub(super) struct Settings {
    pub(super) threshold: Duration,
    pub(super) callbacks: Vec<Callback>,
    /// `None` if the watch captures no stacks.
    pub(super) capture: Option<Capture>,
}

/// The state that a watch and its thread share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) is_stopped: AtomicBool,
    /// The greatest lag of the runtimes, in nanoseconds.
    lag: AtomicU64,
    /// The runtimes of the watch. The thread samples a new one from its next sample on.
    runtimes: Mutex<Vec<Handle>>,
    seen: Mutex<Seen>,
}

/// The blocks that the watch has seen.
#[derive(Debug, Default)]
struct Seen {
    blocked_now: Vec<Blocked>,
    blocked: u64,
    blocked_for: Duration,
    labels: HashMap<&'static str, LabelStats>,
}

impl Settings {
    /// Returns the interval between samples. The threshold is a multiple of the interval, so that a sample is due when
    /// the threshold has passed.
    pub(super) fn interval(&self) -> Duration {
        let samples = self.threshold.as_nanos().div_ceil(MAX_INTERVAL.as_nanos()).max(5);
        self.threshold / u32::try_from(samples).unwrap_or(u32::MAX)
    }
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            is_stopped: AtomicBool::new(false),
            lag: AtomicU64::new(0),
            runtimes: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    pub(super) fn add(&self, runtime: &Handle) {
        // The caller may be a worker of the runtime, as in actix-web. The worker may block before the watch finds its
        // thread.
        register_thread();
        let mut runtimes = self.runtimes();
        if runtimes.iter().all(|known| known.id() != runtime.id()) {
            runtimes.push(runtime.clone());
        }
    }

    /// Removes a runtime that has shut down.
    pub(super) fn remove(&self, runtime: Id) {
        self.runtimes().retain(|known| known.id() != runtime);
    }

    pub(super) fn watches(&self, runtime: Id) -> bool {
        self.runtimes().iter().any(|known| known.id() == runtime)
    }

    /// Returns the runtimes after the first `count`. New runtimes are added at the end.
    pub(super) fn runtimes_after(&self, count: usize) -> Vec<Handle> {
        self.runtimes().iter().skip(count).cloned().collect()
    }

    fn runtimes(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Relaxed` suffices, because the lag orders no other memory.
    pub(super) fn set_lag(&self, lag: Duration) {
        self.lag.store(u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn lag(&self) -> Duration {
        Duration::from_nanos(self.lag.load(Ordering::Relaxed))
    }

    pub(super) fn blocked(&self) -> Vec<Blocked> {
        self.seen().blocked_now.clone()
    }

    pub(super) fn set_blocked(&self, blocked: Vec<Blocked>) {
        self.seen().blocked_now = blocked;
    }

    pub(super) fn count(&self, report: &Report) {
        let seen = &mut *self.seen();
        let recovered = match report {
            Report::Blocked(blocked) if blocked.repeats() == 0 => return seen.blocked += 1,
            Report::Blocked(_) => return,
            Report::Recovered(recovered) => recovered,
        };
        let (label, total) =
            (recovered.last().label().filter(|_| recovered.is_one_poll).unwrap_or(""), recovered.total());
        seen.blocked_for += total;
        let stats = seen.labels.entry(label).or_insert(LabelStats { label, ..LabelStats::default() });
        stats.slow_polls += 1;
        stats.total += total;
        stats.longest = stats.longest.max(total);
    }

    pub(super) fn stats(&self) -> WatchStats {
        let seen = self.seen();
        let mut labels: Vec<_> = seen.labels.values().copied().collect();
        labels.sort_by(|a, b| b.total.cmp(&a.total).then(a.label.cmp(b.label)));
        WatchStats { blocked: seen.blocked, blocked_now: seen.blocked_now.len(), blocked_for: seen.blocked_for, labels }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl_debug!(Settings |this| { threshold: this.threshold, .. });
impl_debug!(Shared |this| { settings: this.settings, lag: this.lag(), seen: this.seen() });
