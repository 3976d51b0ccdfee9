//! [`Timers`], one point in time for each service at most, and one for the host.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// The index that stands for the host.
pub(crate) const HOST: u32 = u32::MAX;

/// As good as never: what may be added to any time without an overflow.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// What is due when.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Instant, u32)>);

impl Timers {
    /// Replaces the timer `at`, if there is one, by another one, or none.
    pub(crate) fn set(&mut self, id: u32, at: &mut Option<Instant>, to: Option<Instant>) {
        if let Some(at) = at.take() {
            self.0.remove(&(at, id));
        }
        if let Some(to) = to {
            self.0.insert((to, id));
            *at = Some(to);
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The next one whose time has come.
    pub(crate) fn due(&self, now: Instant) -> Option<u32> {
        self.0.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }
}

/// A time from now.
pub(crate) fn after(now: Instant, duration: Duration) -> Instant {
    now + duration.min(FAR)
}
