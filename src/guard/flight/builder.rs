//! [`SingleFlightBuilder`].

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::single_flight::SingleFlight;

/// Builds a [`SingleFlight`], in a `const` too.
///
/// ```
/// use std::time::Duration;
/// use onelane::SingleFlight;
///
/// static PAGES: SingleFlight<String, String> = SingleFlight::builder("pages")
///     .max_waiters(10_000)
///     .wait_timeout(Duration::from_secs(5))
///     .build();
/// # assert_eq!(PAGES.name(), "pages");
/// ```
#[must_use = "a builder does nothing until build() is called"]
pub struct SingleFlightBuilder<K, T, E> {
    name: &'static str,
    settings: Settings,
    types: PhantomData<fn(K, T, E)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_waiters: usize,
    pub(super) wait_timeout: Option<Duration>,
    pub(super) detached: bool,
}

impl<K, T, E> SingleFlightBuilder<K, T, E> {
    pub(super) const fn new(name: &'static str) -> Self {
        let settings = Settings { max_waiters: usize::MAX - 1, wait_timeout: None, detached: false };
        Self { name, settings, types: PhantomData }
    }

    /// How many callers may wait for one run beside the one that began it, from 0 on. The next one is refused with
    /// [`TooManyWaiters`](super::FlightError::TooManyWaiters), at once. Default: no limit.
    ///
    /// A caller that leaves makes room for another.
    pub const fn max_waiters(mut self, max_waiters: usize) -> Self {
        self.settings.max_waiters = max_waiters;
        self
    }

    /// How long a caller waits at most, the one that began the run too. Then it leaves with
    /// [`Timeout`](super::FlightError::Timeout), and the run goes on for the others. Default: no limit.
    ///
    /// The timer is set only when a caller has to wait. A result that has come when it rings wins.
    pub const fn wait_timeout(mut self, wait_timeout: Duration) -> Self {
        self.settings.wait_timeout = Some(wait_timeout);
        self
    }

    /// Lets a run finish though all its callers have left; who comes meanwhile shares it. By default it is dropped.
    ///
    /// It goes on in a task on the runtime of the caller that left last. Where there is none, it is dropped.
    pub const fn detached(mut self) -> Self {
        self.settings.detached = true;
        self
    }

    /// Builds the single flight.
    ///
    /// # Panics
    ///
    /// If `wait_timeout` is zero. In a `const` or `static` that is a compile error:
    ///
    /// ```compile_fail,E0080
    /// # use std::time::Duration;
    /// # use onelane::SingleFlight;
    /// static HASTY: SingleFlight<u64, u64> = SingleFlight::builder("hasty").wait_timeout(Duration::ZERO).build();
    /// ```
    #[must_use]
    pub const fn build(self) -> SingleFlight<K, T, E> {
        if let Some(timeout) = self.settings.wait_timeout {
            assert!(!timeout.is_zero(), "a wait_timeout of zero lets nobody wait: give one, or none");
        }
        let most = self.settings.max_waiters;
        assert!(most < usize::MAX, "max_waiters has no limit by default: leave it out");
        SingleFlight::from_parts(self.name, self.settings)
    }
}

impl<K, T, E> fmt::Debug for SingleFlightBuilder<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlightBuilder")
            .field("name", &self.name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
