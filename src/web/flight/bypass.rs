//! [`Bypass`], which remembers for a while that a key's responses cannot be shared.
//!
//! Without it, each request for a stream would wait for the head of another request's response, only to be served alone
//! afterwards. (Varnish calls this hit-for-miss.)

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::FlightKey;
use crate::debug::impl_debug;

const SLOTS: usize = 256;
const REMEMBERED: Duration = Duration::from_secs(10);
/// The lower bits of a slot, which hold the second at which it expires. The upper bits are those of a fingerprint.
const SECONDS: u64 = (1 << 24) - 1;

/// A fixed number of slots for keys. A key may replace another key, whose next requests then wait once more.
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
        // The seconds wrap around after half a year, so they are compared by their difference.
        let left = (seen & SECONDS).wrapping_sub(self.now()) & SECONDS;
        seen != 0 && seen & !SECONDS == fingerprint & !SECONDS && (1..=REMEMBERED.as_secs()).contains(&left)
    }

    pub(crate) fn remember(&self, key: &FlightKey) {
        let fingerprint = key.fingerprint();
        let until = (self.now() + REMEMBERED.as_secs()) & SECONDS;
        self.slot(fingerprint).store(fingerprint & !SECONDS | until, Ordering::Relaxed);
    }

    fn slot(&self, fingerprint: u64) -> &AtomicU64 {
        &self.slots[fingerprint as usize % SLOTS]
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_secs() & SECONDS
    }
}

impl_debug!(Bypass | _ | { .. });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::FlightOptions;
    use crate::web::flight::{Fields, FlightHead};

    struct Path(String);

    impl FlightHead for Path {
        fn method(&self) -> &str {
            "GET"
        }

        fn authority(&self) -> Option<&[u8]> {
            None
        }

        fn targets(&self) -> impl Iterator<Item = &[u8]> {
            std::iter::once(self.0.as_bytes())
        }

        fn fields(&self) -> &impl Fields {
            &NoFields
        }
    }

    struct NoFields;

    impl Fields for NoFields {
        fn values(&self, _: &str) -> impl Iterator<Item = &[u8]> {
            std::iter::empty()
        }
    }

    fn key(n: usize) -> FlightKey {
        FlightKey::new(&Path(format!("/{n}")), None, &FlightOptions::new()).expect("the request is shareable")
    }

    /// Lets `time` pass.
    fn later(mut bypass: Bypass, time: Duration) -> Bypass {
        bypass.since = bypass.since.checked_sub(time).expect("the machine has been up for longer");
        bypass
    }

    #[test]
    fn key_is_remembered_for_a_while_and_others_are_not() {
        let bypass = Bypass::new();
        assert!(!bypass.remembers(&key(0)), "nothing is remembered yet");
        bypass.remember(&key(0));
        assert!(bypass.remembers(&key(0)));
        assert!((1..10_000).all(|n| !bypass.remembers(&key(n))), "a key in the same slot is not remembered either");
        let bypass = later(bypass, REMEMBERED - Duration::from_secs(2));
        assert!(bypass.remembers(&key(0)));
        let bypass = later(bypass, Duration::from_secs(2));
        assert!(!bypass.remembers(&key(0)), "the responses may be shareable by now");
    }

    #[test]
    fn key_is_forgotten_even_if_the_seconds_wrap_around() {
        let half_a_year = Duration::from_secs(SECONDS - 3);
        let Some(since) = Instant::now().checked_sub(half_a_year) else { return };
        let bypass = Bypass { since, ..Bypass::new() };
        bypass.remember(&key(0));
        assert!(bypass.remembers(&key(0)));
        let since = bypass.since - Duration::from_secs(60);
        let bypass = Bypass { since, ..bypass };
        assert!(!bypass.remembers(&key(0)));
    }

    #[test]
    fn many_keys_take_no_more_memory_and_the_latest_are_remembered() {
        let bypass = Bypass::new();
        (0..10_000).for_each(|n| bypass.remember(&key(n)));
        let remembered = (0..10_000).filter(|n| bypass.remembers(&key(*n))).count();
        assert!((SLOTS / 2..=SLOTS).contains(&remembered), "{remembered} keys");
        assert!(bypass.remembers(&key(9_999)));
    }
}
