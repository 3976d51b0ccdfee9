//! [`Restart`], [`Backoff`] and [`Intensity`]: whether and when a service is restarted. [`RestartHistory`] decides.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// After this many doublings a nanosecond exceeds the longest [`Duration`], which is below 2^64 seconds.
const MAX_DOUBLINGS: u32 = 94;

/// Which exits of a service cause a restart.
///
/// The variants correspond to `temporary`, `transient` and `permanent` in Erlang/OTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restart {
    /// Never. The host gives up on the service at the first failure.
    Never,
    /// An error, a panic or an exceeded time limit. Returning `Ok` completes the service.
    #[default]
    OnFailure,
    /// Any exit before the host stops, including `Ok`. [`Intensity`] counts such a restart like any other.
    Always,
}

/// How long the host waits before it restarts a service: longer after each consecutive failure, up to a limit.
///
/// A failure is no longer consecutive once the service has been ready for
/// [`stable_after`](super::Service::stable_after) in one generation. A successful start alone is not enough: a service
/// in a crash loop starts again and again.
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
    /// Creates a backoff that waits `first` after the first failure and doubles the delay with each consecutive
    /// failure, up to 30 seconds, with a jitter of 0.5.
    #[must_use]
    pub const fn new(first: Duration) -> Self {
        Self { first, limit: Duration::from_secs(30), jitter: 0.5 }
    }

    /// Creates a backoff that restarts immediately. [`Intensity`] still limits the number of restarts.
    #[must_use]
    pub const fn none() -> Self {
        Self { first: Duration::ZERO, limit: Duration::ZERO, jitter: 0.0 }
    }

    /// Sets the longest delay, before jitter. Default: 30 seconds.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Extends each delay by a random fraction of itself, at most `part`, so that services that failed together do not
    /// restart together. `part` is clamped to the range from 0 to 1. Default: 0.5.
    #[must_use]
    pub const fn jitter(mut self, part: f64) -> Self {
        self.jitter = if part >= 0.0 { part.min(1.0) } else { 0.0 };
        self
    }

    /// Returns the delay after this many consecutive failures, without jitter.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(MAX_DOUBLINGS);
        (0..doublings).fold(self.first, |delay, _| delay.saturating_add(delay)).min(self.limit)
    }

    /// Returns the delay with jitter. `random` is a number from 0 to 1.
    fn jittered_delay(&self, failures: u32, random: f64) -> Duration {
        let delay = self.delay(failures);
        let jitter = Duration::try_from_secs_f64(delay.as_secs_f64() * self.jitter * random).unwrap_or(Duration::MAX);
        delay.saturating_add(jitter)
    }
}

impl Default for Backoff {
    /// Starts at 1 second and doubles up to 30 seconds, with a jitter of 0.5.
    fn default() -> Self {
        Self::new(Duration::from_secs(1))
    }
}

/// The number of restarts allowed within a sliding window of time. At one more restart, the host gives up on the
/// service.
///
/// Because the window slides, a crash once a day never adds up, while a crash loop is detected even if each generation
/// is ready for a moment. The rule and its name are those of Erlang/OTP's supervisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    restarts: u32,
    window: Duration,
}

impl Intensity {
    /// Allows at most this many restarts within `window`.
    #[must_use]
    pub const fn new(restarts: u32, window: Duration) -> Self {
        Self { restarts, window }
    }

    /// Allows any number of restarts.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::new(u32::MAX, Duration::ZERO)
    }
}

impl Default for Intensity {
    /// Allows 5 restarts in 60 seconds.
    fn default() -> Self {
        Self::new(5, Duration::from_secs(60))
    }
}

/// The failures and recent restarts of one service.
#[derive(Debug, Default)]
pub(crate) struct RestartHistory {
    /// Consecutive failures, none of them after the service was stable.
    streak: u32,
    restarts: VecDeque<Instant>,
}

impl RestartHistory {
    /// Records that a generation ended, and returns the delay before the next one. `None` if there were too many
    /// restarts.
    pub(crate) fn next_delay(
        &mut self,
        now: Instant,
        was_stable: bool,
        backoff: &Backoff,
        intensity: &Intensity,
        random: f64,
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
        Some(backoff.jittered_delay(self.streak, random))
    }

    fn forget_before(&mut self, now: Instant, window: Duration) {
        while self.restarts.front().is_some_and(|restart| now.duration_since(*restart) >= window) {
            self.restarts.pop_front();
        }
    }

    /// Returns the number of consecutive failures.
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
        let mut history = RestartHistory::default();
        let gives_up = |n: &u32| {
            let now = start + pause * *n;
            history.next_delay(now, was_stable, &Backoff::default(), &Intensity::default(), 0.0).is_none()
        };
        (0..times).find(gives_up)
    }

    #[test]
    fn sixth_failure_within_the_window_exceeds_the_intensity() {
        assert_eq!(fail_every(SECOND, false, 100), Some(5));
        assert_eq!(fail_every(11 * SECOND, false, 100), Some(5));
    }

    #[test]
    fn failures_spread_beyond_the_window_never_exceed_the_intensity() {
        assert_eq!(fail_every(12 * SECOND, false, 10_000), None);
        assert_eq!(fail_every(86_400 * SECOND, true, 10_000), None);
    }

    #[test]
    fn delay_doubles_until_a_generation_was_stable() {
        let (mut history, now, backoff) = (RestartHistory::default(), Instant::now(), Backoff::default());
        let mut delay = |stable| history.next_delay(now, stable, &backoff, &Intensity::unlimited(), 0.0);
        assert_eq!([delay(false), delay(false), delay(false)], [Some(SECOND), Some(2 * SECOND), Some(4 * SECOND)]);
        assert_eq!([delay(true), delay(false)], [Some(SECOND), Some(2 * SECOND)]);
    }

    #[test]
    fn delay_reaches_any_limit_from_any_first_delay() {
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
    fn jitter_only_lengthens_the_delay() {
        let backoff = Backoff::new(SECOND).jitter(0.5);
        assert_eq!(backoff.jittered_delay(1, 0.0), SECOND);
        assert_eq!(backoff.jittered_delay(1, 1.0), SECOND * 3 / 2);
        assert_eq!(Backoff::new(SECOND).jitter(f64::NAN).jittered_delay(1, 1.0), SECOND);
        assert_eq!(Backoff::new(Duration::MAX).limit(Duration::MAX).jittered_delay(90, 0.0), Duration::MAX);
    }

    #[test]
    fn unlimited_intensity_records_no_restarts() {
        let (mut history, now) = (RestartHistory::default(), Instant::now());
        for _ in 0..1_000 {
            assert!(history.next_delay(now, false, &Backoff::none(), &Intensity::unlimited(), 0.5).is_some());
        }
        assert!(history.restarts.is_empty());
        assert_eq!(history.streak(), 1_000);
    }
}
