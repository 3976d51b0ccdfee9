//! [`SingleFlight`], one run for all who ask at the same time.

use std::convert::Infallible;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use super::builder::{Settings, SingleFlightBuilder};
use super::runs::Runs;
use super::shared_run::SharedRun;
use super::stats::FlightStats;
use crate::counter::Counter;

/// Lets callers who ask for the same key at the same time share one run of the work.
///
/// ```
/// use std::convert::Infallible;
/// use onelane::{FlightError, SingleFlight};
///
/// static PAGES: SingleFlight<String, String> = SingleFlight::new("pages");
///
/// async fn page(path: &str) -> Result<String, FlightError<Infallible>> {
///     let title = path.to_owned();
///     PAGES.run(path.to_owned(), || async move {
///         // … computed once, however many ask for it meanwhile …
///         Ok(format!("<h1>{title}</h1>"))
///     })
///     .await
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (one, other) = tokio::join!(page("/news"), page("/news"));
/// # assert_eq!(one.as_deref().ok(), Some("<h1>/news</h1>"));
/// # assert_eq!(one.ok(), other.ok());
/// # }
/// ```
///
/// # What the key must hold
///
/// Everything that the answer depends on. Above all **who asks**, if the answer is not for everyone: callers with the
/// same key get the same value, whoever they are. A key without the authenticated user hands one user's page to another.
///
/// # Who runs the work
///
/// Nobody in particular: its callers have equal shares in it. While there is one, it polls the work itself, and nothing
/// is spawned. From the second on, a task on that caller's runtime does, so that nobody waits for a caller that is not
/// polled. (So that runtime has to go on, and have what the work needs, such as a timer, as long as anyone waits: a
/// `block_on` that ends before leaves the task where nobody polls it.) A caller that leaves, the first one too, changes nothing for the others: the run goes on from where it is. When the last
/// one leaves, the work is dropped at once ([`detached`](SingleFlightBuilder::detached) lets it finish). If at that
/// moment it is being polled on another thread, it is dropped when that poll returns.
///
/// The runs of one key never overlap: who comes while cancelled work is being dropped does not inherit it, but waits for
/// that and begins anew.
///
/// # Errors and panics
///
/// An error is shared by all as [`Failed`](super::FlightError::Failed). A panic reaches all as
/// [`Panicked`](super::FlightError::Panicked); the work is not run again.
///
/// # Not a cache
///
/// When a run has ended it is forgotten: the next caller begins another. Nothing of a key remains.
///
/// # When something else fits better
///
/// To keep values, use a cache, such as moka. To let callers take turns instead of sharing, use a
/// [`KeyedGuard`](crate::KeyedGuard).
pub struct SingleFlight<K, T, E = Infallible> {
    name: &'static str,
    pub(super) settings: Settings,
    /// Made at the first call.
    runs: OnceLock<Arc<Runs<K, T, E>>>,
    pub(super) refused: Counter,
    pub(super) timed_out: Counter,
}

impl<K, T, E> SingleFlight<K, T, E> {
    /// A single flight without limits, whose runs end when all their callers have left.
    ///
    /// `name` is for you: it appears in [`stats`](Self::stats).
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self::builder(name).build()
    }

    /// Starts a single flight with other settings.
    pub const fn builder(name: &'static str) -> SingleFlightBuilder<K, T, E> {
        SingleFlightBuilder::new(name)
    }

    pub(super) const fn from_parts(name: &'static str, settings: Settings) -> Self {
        Self { name, settings, runs: OnceLock::new(), refused: Counter::new(), timed_out: Counter::new() }
    }

    /// The name it was given.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<K, T, E> SingleFlight<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// Returns what the run of `key` comes to: one that is going on, or one that this call begins with `work`.
    ///
    /// The value is cloned for each caller; put large ones in an `Arc`. `work` is called only if it begins a run, within
    /// the first poll. Tracing's span of the caller that began the run stays around the work, whoever polls it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up this caller's share. The run goes on for the others, from where it is.
    ///
    /// # Errors
    ///
    /// [`Failed`](super::FlightError::Failed) and [`Panicked`](super::FlightError::Panicked) by the work,
    /// [`TooManyWaiters`](super::FlightError::TooManyWaiters) at once, [`Timeout`](super::FlightError::Timeout) after
    /// `wait_timeout`, [`WouldDeadlock`](super::FlightError::WouldDeadlock) when the work asks for its own key.
    ///
    /// # Panics
    ///
    /// If it has to wait, and there is a `wait_timeout`, outside of a tokio runtime with a timer. If it is polled again
    /// after it completed.
    pub fn run<W, F>(&self, key: K, work: W) -> SharedRun<'_, K, T, E, W>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        SharedRun::new(self, key, work)
    }

    /// Lets the next caller of `key` begin a run, though one is going on; that one goes on for those who wait for it.
    ///
    /// For when what it computes is known to be out of date. From here on two runs of the key may go on at once. Returns
    /// whether there was one.
    pub fn forget(&self, key: &K) -> bool {
        let Some(runs) = self.runs.get() else { return false };
        let (hash, shard) = runs.boards.locate(key);
        runs.boards.shard(shard).forget(hash, key)
    }

    /// What it has done so far and does right now. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> FlightStats {
        let mut stats = FlightStats {
            name: self.name,
            running: 0,
            waiting: 0,
            runs: 0,
            shared: 0,
            cancelled: 0,
            panicked: 0,
            refused: self.refused.value(),
            timed_out: self.timed_out.value(),
        };
        let Some(runs) = self.runs.get() else { return stats };
        stats.panicked = runs.panicked.value();
        for board in runs.boards.iter() {
            let tally = &board.tally;
            stats.running += tally.running.value() as usize;
            stats.waiting += tally.callers.value() as usize;
            stats.runs += tally.runs.value();
            stats.shared += tally.shared.value();
            stats.cancelled += tally.cancelled.value();
        }
        stats
    }

    /// How many keys have a run. Takes no lock.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stats().running
    }

    /// Whether no key has a run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn runs(&self) -> &Arc<Runs<K, T, E>> {
        self.runs.get_or_init(Runs::new)
    }
}

impl<K, T, E> fmt::Debug for SingleFlight<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight")
            .field("name", &self.name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
