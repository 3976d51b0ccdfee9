//! [`SingleFlightBuilder`], which configures a [`SingleFlight`].

use std::marker::PhantomData;
use std::time::Duration;

use super::single_flight::SingleFlight;
use crate::config_error::{ConfigError, Problem};
use crate::debug::impl_debug;
use crate::sync::const_unless_loom;

/// Builds a [`SingleFlight`]. Works in `const` contexts, too.
///
/// ```
/// use std::time::Duration;
/// use onelane::SingleFlight;
///
/// static PAGES: SingleFlight<String, String> = SingleFlight::builder("pages")
///     .max_waiters(10_000)
///     .max_wait(Duration::from_secs(5))
///     .build();
/// # assert_eq!(PAGES.name(), "pages");
/// ```
#[must_use = "a builder does nothing until build() is called"]
pub struct SingleFlightBuilder<K, T, E> {
    name: &'static str,
    config: FlightConfig,
    types: PhantomData<fn(K, T, E)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct FlightConfig {
    pub(super) max_waiters: usize,
    pub(super) max_wait: Option<Duration>,
    pub(super) detached: bool,
}

impl<K, T, E> SingleFlightBuilder<K, T, E> {
    pub(super) const fn new(name: &'static str) -> Self {
        let config = FlightConfig { max_waiters: usize::MAX - 1, max_wait: None, detached: false };
        Self { name, config, types: PhantomData }
    }

    /// Limits how many callers may wait for one run in addition to the caller that started it. May be 0. Default: no
    /// limit.
    ///
    /// The next caller is refused at once with [`TooManyWaiters`](crate::guard::FlightErrorKind::TooManyWaiters). A
    /// caller that stops waiting makes room for another.
    pub const fn max_waiters(mut self, max_waiters: usize) -> Self {
        self.config.max_waiters = max_waiters;
        self
    }

    /// Limits how long each caller waits, including the caller that started the run. Default: no limit.
    ///
    /// After that time the caller gets [`Timeout`](crate::guard::FlightErrorKind::Timeout), and the run continues for
    /// the other callers. The timer is set only when a caller has to wait. A result that is available when the timer
    /// fires wins.
    pub const fn max_wait(mut self, max_wait: Duration) -> Self {
        self.config.max_wait = Some(max_wait);
        self
    }

    /// Lets a run finish even if no caller waits for it any more. Callers that arrive meanwhile share it. By default
    /// such a run is cancelled.
    ///
    /// The run continues in a task on the runtime of the caller that waited last. Without a runtime it is cancelled.
    pub const fn detached(mut self) -> Self {
        self.config.detached = true;
        self
    }

    const_unless_loom! {
        /// Builds the single flight.
        ///
        /// # Panics
        ///
        /// Panics if `max_wait` is zero. In a `const` or `static` that is a compile error:
        ///
        /// ```compile_fail,E0080
        /// # use std::time::Duration;
        /// # use onelane::SingleFlight;
        /// static HASTY: SingleFlight<u64, u64> = SingleFlight::builder("hasty").max_wait(Duration::ZERO).build();
        /// ```
        ///
        /// Panics if `max_waiters` is `usize::MAX`.
        #[must_use]
        #[track_caller]
        pub fn build(self) -> SingleFlight<K, T, E> {
            match self.config.check() {
                Ok(()) => SingleFlight::from_parts(self.name, self.config),
                Err((_, problem)) => panic!("{}", problem),
            }
        }
    }

    const_unless_loom! {
        /// Builds the single flight from settings that may be out of range, such as those of a configuration file.
        ///
        /// # Errors
        ///
        /// Returns an error that names the first setting for which [`build`](Self::build) would panic.
        pub fn try_build(self) -> Result<SingleFlight<K, T, E>, ConfigError> {
            match self.config.check() {
                Ok(()) => Ok(SingleFlight::from_parts(self.name, self.config)),
                Err(problem) => Err(ConfigError::new("flight", self.name, problem)),
            }
        }
    }
}

impl FlightConfig {
    /// Returns the first setting that is out of range.
    const fn check(&self) -> Result<(), Problem> {
        if let Some(Duration::ZERO) = self.max_wait {
            return Err(("max_wait", "a max_wait of zero lets no caller wait: set a longer one, or none"));
        }
        if self.max_waiters == usize::MAX {
            return Err(("max_waiters", "max_waiters is unlimited by default: leave it out"));
        }
        Ok(())
    }
}

impl_debug!([K, T, E] SingleFlightBuilder<K, T, E> |this| { name: this.name, config: this.config, .. });
