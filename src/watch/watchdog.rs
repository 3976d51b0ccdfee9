//! [`Watch`] and its thread, which samples the workers of runtimes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::builder::WatchBuilder;
use super::error::WatchError;
use super::report::{Blocked, Report};
use super::runtime::{Sample, WatchedRuntime};
use super::shared::{Settings, Shared};
use super::slot::begin_epoch;
use super::stats::WatchStats;
use super::trace;
use crate::panic::catch;

/// Reports blocked workers of tokio runtimes while they are blocked.
///
/// A thread of the watch reads two counters of each worker. tokio updates the counters when the worker parks or
/// unparks, and every 61 turns of its scheduler. A worker is blocked if it is not parked and its counters stand still
/// for the [threshold](WatchBuilder::threshold). The watch then emits an event, calls the
/// [callbacks](WatchBuilder::on_report), and lists the worker in [`blocked`](Self::blocked).
///
/// All clones share one watch. The watch ends when the last clone is dropped, so a [callback](WatchBuilder::on_report)
/// must not own a clone. When a runtime has shut down, the watch reports its blocked workers as recovered and removes
/// the runtime.
///
/// # Precision
///
/// The interval between samples is at most 20 ms, and at most a fifth of the threshold. A report comes at most one
/// interval after the threshold has passed, unless the machine is too busy to run the thread of the watch. So a block
/// that ends within that interval may not be reported. Time in which the whole process stands still, as on a suspended
/// machine, does not count towards the threshold. The thread takes no samples while it captures a stack or calls a
/// callback.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Duration;
/// use onelane::watch::{Report, Watch, watch};
///
/// # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (reports, received) = mpsc::channel();
/// let _watch = Watch::builder()
///     .threshold(Duration::from_millis(50))
///     .on_report(move |report| reports.send(report.clone()).unwrap_or_default())
///     .start(&tokio::runtime::Handle::current())?;
///
/// // A mistake: `std::thread::sleep` blocks the worker.
/// tokio::spawn(watch("import", async { std::thread::sleep(Duration::from_millis(300)) })).await?;
///
/// let Report::Blocked(blocked) = received.recv()? else { panic!("the worker is blocked first") };
/// assert_eq!(blocked.label(), Some("import"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Watch(Arc<Owner>);

/// Ends the thread when the last clone of the watch is dropped.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    thread: Thread,
}

/// All watches of the process.
static WATCHES: Mutex<Vec<Weak<Owner>>> = Mutex::new(Vec::new());

/// A view of a watch that does not keep the watch running. A watch that has ended has no blocked worker and no lag.
#[derive(Clone, Debug)]
pub(crate) struct WatchView(Arc<Shared>);

struct Watchdog {
    shared: Arc<Shared>,
    runtimes: Vec<WatchedRuntime>,
    last: Instant,
}

impl Watch {
    /// Creates a builder.
    pub fn builder() -> WatchBuilder {
        WatchBuilder::new()
    }

    pub(super) fn start(settings: Settings) -> Result<Self, WatchError> {
        begin_epoch();
        let shared = Arc::new(Shared::new(settings));
        let watchdog = Watchdog { shared: Arc::clone(&shared), runtimes: Vec::new(), last: Instant::now() };
        let thread = thread::Builder::new().name("onelane-watch".to_owned()).spawn(|| watchdog.run());
        let thread = thread.map_err(WatchError::NoThread)?.thread().clone();
        let owner = Arc::new(Owner { shared, thread });
        let mut watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&owner));
        Ok(Self(owner))
    }

    /// Returns a watch that watches the runtime, if there is one.
    pub(crate) fn of(runtime: &Handle) -> Option<Self> {
        let watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        let mut watches = watches.iter().filter_map(Weak::upgrade);
        watches.find(|watch| watch.shared.watches(runtime.id())).map(Self)
    }

    /// Adds a runtime to the watch. Has no effect if the watch already watches the runtime.
    ///
    /// A current-thread runtime looks blocked while its thread is not in `block_on`, because nothing polls its tasks.
    /// Add such a runtime only if its thread stays in `block_on` until the runtime ends.
    pub fn add(&self, runtime: &Handle) {
        self.0.shared.add(runtime);
        self.0.thread.unpark();
    }

    /// Returns the last report of each worker that is blocked now.
    #[must_use]
    pub fn blocked(&self) -> Vec<Blocked> {
        self.0.shared.blocked()
    }

    /// Returns the lag: how long a task that is ready waits for its poll. With several runtimes, returns the greatest
    /// lag.
    ///
    /// The watch measures the lag of a busy runtime ten times a second. While a measurement is pending, the lag is how
    /// long its task has waited so far. The lag of an idle runtime is 0.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.0.shared.lag()
    }

    /// Returns the numbers of the blocks that the watch has seen so far.
    #[must_use]
    pub fn stats(&self) -> WatchStats {
        self.0.shared.stats()
    }

    pub(crate) fn view(&self) -> WatchView {
        WatchView(Arc::clone(&self.0.shared))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

impl WatchView {
    /// Adds a runtime to a watch that has another runtime. Unlike [`Watch::add`], this does not wake the thread of the
    /// watch: the thread finds the new runtime at its next sample. Has no effect on a watch that has ended.
    pub(crate) fn add(&self, runtime: &Handle) {
        self.0.add(runtime);
    }

    pub(crate) fn lag(&self) -> Duration {
        self.0.lag()
    }

    pub(crate) fn blocked(&self) -> Vec<Blocked> {
        self.0.blocked()
    }
}

impl Watchdog {
    fn run(mut self) {
        let interval = self.shared.settings.interval();
        while !self.shared.is_stopped.load(Ordering::Relaxed) {
            self.take_added();
            if self.runtimes.is_empty() {
                thread::park();
                self.last = Instant::now();
                continue;
            }
            // `add` ends the pause early. The next sample then comes sooner, which does no harm.
            thread::park_timeout(interval);
            let now = Instant::now();
            // A pause that is much longer than the interval means that the process or the machine stood still.
            let seen = (now - self.last).min(interval * 2);
            self.last = now;
            self.sample(now, seen);
        }
        self.shared.set_blocked(Vec::new());
        self.shared.set_lag(Duration::ZERO);
    }

    fn take_added(&mut self) {
        let threshold = self.shared.settings.threshold;
        let added = self.shared.runtimes_after(self.runtimes.len()).into_iter();
        self.runtimes.extend(added.map(|handle| WatchedRuntime::new(handle, Instant::now(), threshold)));
    }

    fn sample(&mut self, now: Instant, seen: Duration) {
        let shared = &self.shared;
        let Settings { threshold, capture, .. } = &shared.settings;
        let sample = Sample { now, seen, threshold: *threshold, capture: capture.as_ref() };
        let mut reports = Vec::new();
        self.runtimes.retain_mut(|runtime| {
            let is_alive = runtime.sample(sample, |report| reports.push(report));
            if !is_alive {
                shared.remove(runtime.id());
            }
            is_alive
        });
        shared.set_lag(self.runtimes.iter().map(WatchedRuntime::lag).max().unwrap_or_default());
        if !reports.is_empty() {
            // Comes before the callbacks, which may read from the watch.
            shared.set_blocked(self.runtimes.iter().flat_map(WatchedRuntime::blocked).cloned().collect());
            reports.iter().for_each(|report| shared.count(report));
            reports.iter().for_each(|report| self.report(report));
        }
    }

    /// Emits the event of a report, and calls the callbacks, which are user code.
    fn report(&self, report: &Report) {
        match report {
            Report::Blocked(blocked) => trace::worker_is_blocked(blocked),
            Report::Recovered(recovered) => trace::worker_has_recovered(recovered),
        }
        for callback in &self.shared.settings.callbacks {
            if let Err(panic) = catch(|| callback(report)) {
                trace::callback_panicked(&panic);
            }
        }
    }
}
