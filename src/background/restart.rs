//! [`Restart`], [`Backoff`] and [`Intensity`]: whether and when a service is started again. [`Failures`] decides.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// After so many doublings a nanosecond is longer than the longest [`Duration`], which is below 2^64 seconds.
const DOUBLINGS: u32 = 94;

/// After which ends a service is started again.
///
/// The words are Erlang/OTP's `temporary`, `transient` and `permanent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restart {
    /// Never: the first failure gives the service up.
    Never,
    /// After an error, a panic or a missed heartbeat. Returning `Ok` completes the service.
    #[default]
    OnFailure,
    /// Also after it returned `Ok` before the host stopped. That counts as any other restart in [`Intensity`].
    Always,
}

/// How long the host waits before it starts a service again: longer after each failure in a row, up to a limit.
///
/// A row ends when the service has been ready for [`stable_after`](super::Service::stable_after) in one generation. That
/// it has started says nothing: a crash loop starts all the time.
///
/// # Examples
///
/// ```
/// use onelane::background::Backoff;
/// use std::time::Duration;
///
/// let backoff = Backoff::new(Duration::from_millis(100)).limit(Duration::from_secs(5)).jitter(0.0);
/// assert_eq!(backoff.delay(1), Duration::from_millis(100));
/// assert_eq!(backoff.delay(2), Duration::from_millis(200));
/// assert_eq!(backoff.delay(90), Duration::from_secs(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    jitter: f64,
}

impl Backoff {
    /// Waits `first` after the first failure in a row, twice as long after the next one, and so on, up to 30 seconds, with
    /// a jitter of a half.
    #[must_use]
    pub const fn new(first: Duration) -> Self {
        Self { first, limit: Duration::from_secs(30), jitter: 0.5 }
    }

    /// Starts again at once, whatever happens. [`Intensity`] still bounds how often.
    #[must_use]
    pub const fn none() -> Self {
        Self { first: Duration::ZERO, limit: Duration::ZERO, jitter: 0.0 }
    }

    /// Waits no longer than this, jitter aside. Default: 30 seconds.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Waits up to this part longer, by chance, so that what failed together does not come back together. From 0 to 1; what
    /// is outside is taken as the nearer of the two. Default: 0.5.
    #[must_use]
    pub const fn jitter(mut self, part: f64) -> Self {
        self.jitter = if part >= 0.0 { part.min(1.0) } else { 0.0 };
        self
    }

    /// The wait after so many failures in a row, without jitter.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(DOUBLINGS);
        (0..doublings).fold(self.first, |delay, _| delay.saturating_add(delay)).min(self.limit)
    }

    /// The wait, with `chance` from 0 to 1 of the jitter.
    fn jittered(&self, failures: u32, chance: f64) -> Duration {
        let delay = self.delay(failures);
        let jitter = Duration::try_from_secs_f64(delay.as_secs_f64() * self.jitter * chance).unwrap_or(Duration::MAX);
        delay.saturating_add(jitter)
    }
}

impl Default for Backoff {
    /// 1 second, doubled up to 30 seconds, jitter 0.5.
    fn default() -> Self {
        Self::new(Duration::from_secs(1))
    }
}

/// How many restarts in how long a time are too many: the service is given up then.
///
/// The window slides, so a crash once a day never counts with the one before, and a crash loop counts even if each
/// generation is ready for a moment. The rule and its name are those of Erlang/OTP's supervisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    restarts: u32,
    window: Duration,
}

impl Intensity {
    /// At most so many restarts within `window`: the next failure gives up.
    #[must_use]
    pub const fn new(restarts: u32, window: Duration) -> Self {
        Self { restarts, window }
    }

    /// Any number of restarts.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::new(u32::MAX, Duration::ZERO)
    }
}

impl Default for Intensity {
    /// 5 restarts in 60 seconds.
    fn default() -> Self {
        Self::new(5, Duration::from_secs(60))
    }
}

/// The failures of one service so far.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// In a row, none of them after the service was stable.
    streak: u32,
    restarts: VecDeque<Instant>,
}

impl Failures {
    /// Takes down that a generation ended, and how long to wait until the next one. `None`: there have been too many.
    pub(crate) fn next_delay(
        &mut self,
        now: Instant,
        was_stable: bool,
        backoff: &Backoff,
        intensity: &Intensity,
        chance: f64,
    ) -> Option<Duration> {
        if was_stable {
            self.streak = 0;
        }
        self.streak = self.streak.saturating_add(1);
        if intensity.restarts < u32::MAX {
            self.forget_before(now, intensity.window);
            if self.restarts.len() >= intensity.restarts as usize {
                return None;
            }
            self.restarts.push_back(now);
        }
        Some(backoff.jittered(self.streak, chance))
    }

    fn forget_before(&mut self, now: Instant, window: Duration) {
        while self.restarts.front().is_some_and(|restart| now.duration_since(*restart) >= window) {
            self.restarts.pop_front();
        }
    }

    /// The failures in a row.
    pub(crate) fn streak(&self) -> u32 {
        self.streak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fail_every(pause: Duration, was_stable: bool, times: u32) -> Option<u32> {
        let start = Instant::now();
        let mut failures = Failures::default();
        let given_up = |n: &u32| {
            let now = start + pause * *n;
            failures.next_delay(now, was_stable, &Backoff::default(), &Intensity::default(), 0.0).is_none()
        };
        (0..times).find(given_up)
    }

    #[test]
    fn sixth_failure_within_the_window_gives_up() {
        assert_eq!(fail_every(SECOND, false, 100), Some(5));
        assert_eq!(fail_every(11 * SECOND, false, 100), Some(5));
    }

    #[test]
    fn failures_that_the_window_parts_never_give_up() {
        assert_eq!(fail_every(12 * SECOND, false, 10_000), None);
        assert_eq!(fail_every(86_400 * SECOND, true, 10_000), None);
    }

    #[test]
    fn delay_doubles_until_a_stable_generation() {
        let (mut failures, now, backoff) = (Failures::default(), Instant::now(), Backoff::default());
        let mut delay = |stable| failures.next_delay(now, stable, &backoff, &Intensity::unlimited(), 0.0);
        assert_eq!([delay(false), delay(false), delay(false)], [Some(SECOND), Some(2 * SECOND), Some(4 * SECOND)]);
        assert_eq!([delay(true), delay(false)], [Some(SECOND), Some(2 * SECOND)]);
    }

    #[test]
    fn delay_reaches_any_limit_from_any_beginning() {
        let nanosecond = Duration::from_nanos(1);
        let hour = Backoff::new(nanosecond).limit(3_600 * SECOND);
        assert_eq!([1, 2, 41].map(|n| hour.delay(n)), [nanosecond, 2 * nanosecond, Duration::from_nanos(1 << 40)]);
        // An hour is between 2^41 and 2^42 nanoseconds.
        assert_eq!(hour.delay(42), Duration::from_nanos(1 << 41));
        assert_eq!([43, 44, u32::MAX].map(|n| hour.delay(n)), [3_600 * SECOND; 3]);
        let endless = Backoff::new(nanosecond).limit(Duration::MAX);
        assert!(endless.delay(94) < Duration::MAX);
        assert_eq!([95, u32::MAX].map(|n| endless.delay(n)), [Duration::MAX; 2]);
        assert_eq!(Backoff::new(Duration::ZERO).delay(u32::MAX), Duration::ZERO);
        assert_eq!(Backoff::new(SECOND).delay(0), SECOND);
    }

    #[test]
    fn jitter_only_adds() {
        let backoff = Backoff::new(SECOND).jitter(0.5);
        assert_eq!(backoff.jittered(1, 0.0), SECOND);
        assert_eq!(backoff.jittered(1, 1.0), SECOND * 3 / 2);
        assert_eq!(Backoff::new(SECOND).jitter(f64::NAN).jittered(1, 1.0), SECOND);
        assert_eq!(Backoff::new(Duration::MAX).limit(Duration::MAX).jittered(90, 0.0), Duration::MAX);
    }

    #[test]
    fn unlimited_intensity_remembers_nothing() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for _ in 0..1_000 {
            assert!(failures.next_delay(now, false, &Backoff::none(), &Intensity::unlimited(), 0.5).is_some());
        }
        assert!(failures.restarts.is_empty());
        assert_eq!(failures.streak(), 1_000);
    }
}
