//! [`StoreClock`], the clock of a store, as far as this process knows it.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::{Mutex, lock};

/// How many times an attempt is made if the store refuses it as too late.
pub(super) const ATTEMPTS: usize = 2;

/// The clock of a store. Each answer to an attempt sets it.
///
/// An attempt has a deadline on this clock: the time when its caller gives up. The network may deliver the attempt
/// later than that, and even after the release that follows. The store then refuses it, because nothing would release
/// its lock before the end of the lease.
///
/// If the clock of the store jumps forward, the store refuses an attempt that is in time, and the attempt is repeated.
/// If the clock jumps back, the store may execute the next attempt late, as it would without a deadline.
#[derive(Debug, Default)]
pub(super) struct StoreClock(Mutex<Option<(Instant, Duration)>>);

impl StoreClock {
    /// Sets the clock to the time since the Unix epoch that the store has just returned.
    pub(super) fn set(&self, time: Duration) {
        *lock(&self.0) = Some((Instant::now(), time));
    }

    /// Returns the store's time at an instant, or slightly less, because the answer that set the clock took some time
    /// to arrive. `None` before the first answer.
    pub(super) fn at(&self, instant: Instant) -> Option<Duration> {
        let (set_at, time) = (*lock(&self.0))?;
        Some(time + instant.saturating_duration_since(set_at))
    }
}
