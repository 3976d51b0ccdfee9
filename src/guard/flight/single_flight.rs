//! [`SingleFlight`], which runs work once for all callers that ask at the same time.

use std::borrow::{Borrow, Cow};
use std::convert::Infallible;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use super::builder::{FlightConfig, SingleFlightBuilder};
use super::flight_map::FlightMap;
use super::shard::FlightShard;
use super::shared_run::SharedRun;
use super::stats::FlightStats;
use crate::counter::Counter;
use crate::debug::impl_debug;
use crate::name::intern;
use crate::shared::Shareable;
use crate::sync::const_unless_loom;
use crate::wake::Contained;

/// Lets callers that ask for the same key at the same time share one run of the work.
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
///         // … computed once, however many callers ask for it meanwhile …
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
/// # What the key must contain
///
/// The key must contain everything that the value depends on. Above all, it must contain **the user** if the value is
/// not for everyone: callers with the same key get the same value. A key without the authenticated user serves one
/// user's page to another.
///
/// # What drives a run
///
/// All callers of a run are equal. While a run has one caller, that caller polls the work itself, and nothing is
/// spawned. When the second caller joins, a task spawned on that caller's runtime takes over, so that no caller depends
/// on another one being polled. That runtime must keep running while any caller waits, and must have what the work
/// needs, such as a timer. If a `block_on` returns earlier, nothing polls the task any more.
///
/// If a caller stops waiting, even the first one, the run continues for the other callers from where it is. When the
/// last caller stops waiting, the work is dropped at once ([`detached`](SingleFlightBuilder::detached) lets it finish).
/// If another thread is polling the work at that moment, the work is dropped when that poll returns.
///
/// Runs of one key never overlap. A caller that arrives while cancelled work is being dropped does not join that run.
/// It waits until the work is dropped, and then starts a new run.
///
/// # Errors and panics
///
/// All callers share an error as [`Failed`](crate::guard::FlightErrorKind::Failed). A panic reaches all callers as
/// [`Panicked`](crate::guard::FlightErrorKind::Panicked), and the work is not run again.
///
/// # Not a cache
///
/// A run that has ended is forgotten: the next caller starts a new one. Nothing is stored for a key without a run.
///
/// # When not to use it
///
/// To keep values, use a cache such as moka. To let callers run one after another instead of sharing a run, use a
/// [`KeyedGuard`](crate::KeyedGuard).
pub struct SingleFlight<K, T, E = Infallible> {
    pub(in crate::guard) name: &'static str,
    pub(super) config: FlightConfig,
    /// Created by the first call.
    map: OnceLock<Arc<FlightMap<K, T, E>>>,
    pub(super) refused: Counter,
    pub(super) timed_out: Counter,
}

impl<K, T, E> SingleFlight<K, T, E> {
    const_unless_loom! {
        /// Creates a single flight without limits, whose runs are cancelled when no caller waits for them.
        ///
        /// `name` identifies the single flight in [`stats`](Self::stats).
        #[must_use]
        pub fn new(name: &'static str) -> Self {
            Self::builder(name).build()
        }
    }

    /// Returns a builder for a single flight with other settings.
    pub const fn builder(name: &'static str) -> SingleFlightBuilder<K, T, E> {
        SingleFlightBuilder::new(name)
    }

    /// Returns a builder with a name that is not known at compile time, such as one from a configuration file.
    ///
    /// Each distinct name is kept until the process exits, so name routes, not users.
    pub fn builder_named(name: impl Into<Cow<'static, str>>) -> SingleFlightBuilder<K, T, E> {
        Self::builder(intern(name.into()))
    }

    const_unless_loom! {
        pub(super) fn from_parts(name: &'static str, config: FlightConfig) -> Self {
            Self { name, config, map: OnceLock::new(), refused: Counter::new(), timed_out: Counter::new() }
        }
    }

    /// Returns the name that was given to [`new`](Self::new) or [`builder`](Self::builder).
    #[must_use]
    pub const fn name(&self) -> &str {
        self.name
    }
}

impl<K, T, E> SingleFlight<K, T, E>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// Joins the current run of `key`, or starts one with `work`, and returns the run's result.
    ///
    /// The value is cloned for each caller; put large values in an `Arc`. `work` is called during the first poll, and
    /// only if this call starts a run. The work always runs in the tracing span of the caller that started it, even
    /// when another caller or a task polls it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, this caller leaves the run. The run continues for the other callers from where it is.
    ///
    /// # Errors
    ///
    /// Returns [`Failed`](crate::guard::FlightErrorKind::Failed) and
    /// [`Panicked`](crate::guard::FlightErrorKind::Panicked) if the work failed or panicked,
    /// [`TooManyWaiters`](crate::guard::FlightErrorKind::TooManyWaiters) at once,
    /// [`Timeout`](crate::guard::FlightErrorKind::Timeout) after `max_wait`,
    /// [`WouldDeadlock`](crate::guard::FlightErrorKind::WouldDeadlock) if the work asks for its own key, and
    /// [`Closed`](crate::guard::FlightErrorKind::Closed) after [`close`](Self::close).
    ///
    /// # Panics
    ///
    /// Panics if the future has to wait with a `max_wait` outside of a tokio runtime with a timer, or is polled
    /// again after it completed.
    pub fn run<W, F>(&self, key: K, work: W) -> SharedRun<'_, K, T, E, W>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        SharedRun::new(self, key, work)
    }

    /// Makes the next caller of `key` start a new run, even if a run is in progress. Returns `true` if there was one.
    ///
    /// The forgotten run continues for its callers. Use this when the result of that run is known to be out of date.
    /// From then on two runs of the key may be in progress at once.
    ///
    /// The key may be borrowed, as in a `HashMap`: `flight.forget("page")` for `String` keys.
    pub fn forget<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let Some(map) = self.map.get() else { return false };
        let (hash, shard) = map.shards.locate(key);
        map.shards.shard(shard).forget(hash, key)
    }

    /// Closes the flight: new callers are refused with [`Closed`](super::FlightErrorKind::Closed).
    ///
    /// Runs in progress continue for their callers. Closing a closed flight has no effect; a flight cannot be reopened.
    pub fn close(&self) {
        let map = self.map();
        map.shards.iter().for_each(FlightShard::close);
        map.drained.notify_waiters();
    }

    /// Returns `true` if the flight was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.map.get().is_some_and(|map| map.shards.iter().all(FlightShard::is_closed))
    }

    /// Waits until the flight is closed and no run is left, including [detached](SingleFlightBuilder::detached) ones.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn drained(&self) {
        let map = self.map();
        loop {
            // Registered before the check, so that no notification is missed in between.
            let notified = Contained(pin!(map.drained.notified()));
            if map.shards.iter().all(FlightShard::is_drained) {
                return;
            }
            notified.await;
        }
    }

    /// Returns a snapshot of the counters. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> FlightStats {
        let mut stats = FlightStats {
            name: Cow::Borrowed(self.name),
            running: 0,
            waiting: 0,
            runs: 0,
            shared: 0,
            cancelled: 0,
            panicked: 0,
            refused: self.refused.value(),
            timed_out: self.timed_out.value(),
        };
        let Some(map) = self.map.get() else { return stats };
        stats.panicked = map.panicked.value();
        for shard in map.shards.iter() {
            let counters = &shard.counters;
            stats.running += counters.running.value() as usize;
            stats.waiting += counters.waiting.value() as usize;
            stats.runs += counters.runs.value();
            stats.shared += counters.shared.value();
            stats.cancelled += counters.cancelled.value();
        }
        stats
    }

    /// Returns the number of keys that have a run. Takes no lock.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stats().running
    }

    /// Returns `true` if no key has a run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn map(&self) -> &Arc<FlightMap<K, T, E>> {
        self.map.get_or_init(|| FlightMap::new(self.name, self.config.detached))
    }
}

impl<K, T, E> Shareable for SingleFlight<K, T, E> {}

impl_debug!([K, T, E] SingleFlight<K, T, E> |this| { name: this.name, config: this.config, .. });
