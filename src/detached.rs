//! Keeps track of work that continues without its caller: the process knows the work by name while it runs.
//!
//! A handler whose client has disconnected, a [`run_to_completion`](crate::EndpointGuard::run_to_completion) whose
//! caller was cancelled, a [detached](crate::guard::SingleFlightBuilder::detached) flight, an abandoned task of a pool
//! and, in actix-web, the handler of a WebSocket that has ended continue without a caller. Nothing awaits such work, so
//! it is lost when the process ends. A [`ServiceHost`](crate::ServiceHost) waits for it while the host stops, and the
//! host's report names what was left. Without a host, await [`drained`] before the runtime ends. A detached flight with
//! several callers counts from the time when it became independent of them, even while they still wait:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let limit = std::time::Duration::from_secs(10);
//! if tokio::time::timeout(limit, onelane::detached::drained()).await.is_err() {
//!     for work in onelane::detached::running() {
//!         eprintln!("{} of {} did not finish in {limit:?}", work.count(), work.name());
//!     }
//! }
//! # }
//! ```

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::wake::Contained;

/// The detached work of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachedWork {
    name: Arc<str>,
    count: usize,
    longest: Duration,
}

impl DetachedWork {
    /// Returns the name of the guard, flight or pool that the work belongs to, or `websocket`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many pieces of work run without their callers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns how long the oldest piece of work has run without its caller.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

/// Returns the work of the whole process that runs without its callers, by name.
#[must_use]
pub fn running() -> Vec<DetachedWork> {
    let now = Instant::now();
    let mut by_name = BTreeMap::<Arc<str>, DetachedWork>::new();
    for DetachedRun { name, since, .. } in lock().running.values() {
        let longest = now.saturating_duration_since(*since);
        let work = DetachedWork { name: Arc::clone(name), count: 0, longest };
        let work = by_name.entry(Arc::clone(name)).or_insert(work);
        work.count += 1;
        work.longest = work.longest.max(longest);
    }
    by_name.into_values().collect()
}

/// Waits until no work of the process runs without its caller.
///
/// # Cancel safety
///
/// Dropping the future has no effect.
pub async fn drained() {
    loop {
        // Registered before the check, so that no notification is missed in between.
        let notified = pin!(REGISTRY.drained.notified());
        if is_idle() {
            return;
        }
        Contained(notified).await;
    }
}

pub(crate) fn is_idle() -> bool {
    lock().running.is_empty()
}

/// Returns `true` if no work runs without its caller on the threads of a server, and would end with them.
#[cfg(all(feature = "actix-web", feature = "background"))]
pub(crate) fn is_idle_on_servers() -> bool {
    lock().running.values().all(|work| work.outlives_server)
}

/// Returns how many pieces of detached work of each name have been dropped before they finished.
#[cfg(feature = "background")]
pub(crate) fn cut_counts() -> BTreeMap<Arc<str>, usize> {
    lock().cut.clone()
}

/// Records that work which the registry does not know, or does not know any more, was cut.
#[cfg(any(feature = "actix-web", all(feature = "axum", feature = "background")))]
pub(crate) fn record_cut(name: &str, count: usize) {
    *lock().cut.entry(name.into()).or_default() += count;
}

/// One piece of work in the registry. Dropping it without [`finish`](Self::finish) records that the work was cut.
#[derive(Debug)]
pub(crate) struct DetachedEntry {
    id: u64,
    has_finished: bool,
}

impl DetachedEntry {
    pub(crate) fn new(name: impl Into<Arc<str>>) -> Self {
        Self::add(name.into(), false)
    }

    /// Creates an entry for work that does not run on the threads of a server.
    #[cfg(any(feature = "offload", feature = "background"))]
    pub(crate) fn outliving_server(name: impl Into<Arc<str>>) -> Self {
        Self::add(name.into(), true)
    }

    fn add(name: Arc<str>, outlives_server: bool) -> Self {
        let mut state = lock();
        let id = state.next_id;
        state.next_id += 1;
        state.running.insert(id, DetachedRun { name, since: Instant::now(), outlives_server });
        Self { id, has_finished: false }
    }

    /// Records that the work has run to its end.
    pub(crate) fn finish(&mut self) {
        self.has_finished = true;
    }
}

impl Drop for DetachedEntry {
    fn drop(&mut self) {
        let mut state = lock();
        let removed = state.running.remove(&self.id);
        if let Some(work) = removed.filter(|_| !self.has_finished) {
            *state.cut.entry(work.name).or_default() += 1;
        }
        let is_idle = state.running.is_empty();
        drop(state);
        if is_idle {
            REGISTRY.drained.notify_waiters();
        }
    }
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::default);

/// The detached work of the process. Work is detached rarely, so one mutex is enough.
#[derive(Default)]
struct Registry {
    state: Mutex<RegistryState>,
    drained: Notify,
}

struct DetachedRun {
    name: Arc<str>,
    since: Instant,
    #[cfg_attr(
        not(all(feature = "actix-web", feature = "background")),
        allow(dead_code, reason = "only the workers of actix-web end before their process does")
    )]
    outlives_server: bool,
}

#[derive(Default)]
struct RegistryState {
    next_id: u64,
    running: BTreeMap<u64, DetachedRun>,
    cut: BTreeMap<Arc<str>, usize>,
}

fn lock() -> std::sync::MutexGuard<'static, RegistryState> {
    REGISTRY.state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn work(name: &str) -> Option<DetachedWork> {
        running().into_iter().find(|work| work.name() == name)
    }

    #[test]
    fn work_is_listed_by_name_until_it_ends() {
        let first = DetachedEntry::new("listed");
        let mut second = DetachedEntry::new("listed");
        assert_eq!(work("listed").map(|work| work.count()), Some(2));
        second.finish();
        drop(second);
        assert_eq!(work("listed").map(|work| work.count()), Some(1));
        drop(first);
        assert_eq!(work("listed"), None);
    }

    #[cfg(feature = "background")]
    #[test]
    fn work_that_is_dropped_early_is_counted_as_cut() {
        let mut finished = DetachedEntry::new("cut or not");
        finished.finish();
        drop(finished);
        assert_eq!(cut_counts().get("cut or not"), None);
        drop(DetachedEntry::new("cut or not"));
        assert_eq!(cut_counts().get("cut or not"), Some(&1));
    }
}
