//! [`Bypass`], which remembers for a while that a key's answers are not for sharing.
//!
//! Without it, requests for a stream would wait for the head of another's each time, only to be served alone then
//! (Varnish calls it hit-for-miss).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::FlightKey;

const SLOTS: usize = 256;
const REMEMBERED: Duration = Duration::from_secs(10);
/// A slot holds the upper bits of a fingerprint, and below them the seconds until it is forgotten.
const SECONDS: u64 = (1 << 24) - 1;

/// A fixed number of keys. One that comes later may push out another: then that one's requests wait once more.
pub(crate) struct Bypass {
    since: Instant,
    slots: [AtomicU64; SLOTS],
}

impl Bypass {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), slots: [const { AtomicU64::new(0) }; SLOTS] }
    }

    pub(crate) fn remembers(&self, key: &FlightKey) -> bool {
        let fingerprint = key.fingerprint();
        let seen = self.slot(fingerprint).load(Ordering::Relaxed);
        seen != 0 && seen & !SECONDS == fingerprint & !SECONDS && self.now() < seen & SECONDS
    }

    pub(crate) fn remember(&self, key: &FlightKey) {
        let fingerprint = key.fingerprint();
        let until = (self.now() + REMEMBERED.as_secs()) & SECONDS;
        self.slot(fingerprint).store(fingerprint & !SECONDS | until, Ordering::Relaxed);
    }

    fn slot(&self, fingerprint: u64) -> &AtomicU64 {
        &self.slots[fingerprint as usize % SLOTS]
    }

    /// Seconds; after half a year they begin anew, which forgets a little too early.
    fn now(&self) -> u64 {
        self.since.elapsed().as_secs() & SECONDS
    }
}

impl fmt::Debug for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bypass").finish_non_exhaustive()
    }
}
