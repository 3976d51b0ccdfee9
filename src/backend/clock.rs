//! The lease clock, which also runs while the machine is suspended.
//!
//! The clock of a store keeps running while this machine is suspended, but the clock of tokio's timers stops. On Linux,
//! leases are therefore measured by `CLOCK_BOOTTIME`. While a virtual machine is paused by its host, both clocks stop,
//! so the process does not notice the pause.

use tokio::time::Instant;

/// Returns the current time of the lease clock. Compare this time only with other times of the same clock.
#[cfg(all(target_os = "linux", any(feature = "host", feature = "redis", feature = "tokio-postgres")))]
pub(super) fn now() -> Instant {
    use std::sync::OnceLock;
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    /// The first reading of both clocks. `None` if the process may not read the clock.
    static START: OnceLock<Option<(Instant, Duration)>> = OnceLock::new();

    let since_boot = || clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(Duration::from);
    match (START.get_or_init(|| Some((Instant::now(), since_boot()?))), since_boot()) {
        (Some((start, at_start)), Some(since_boot)) => *start + since_boot.saturating_sub(*at_start),
        _ => Instant::now(),
    }
}

/// Returns the current time of the lease clock.
#[cfg(not(all(target_os = "linux", any(feature = "host", feature = "redis", feature = "tokio-postgres"))))]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Converts a time of the lease clock to an instant for timers. The timer fires late if the machine is suspended
/// meanwhile.
pub(super) fn timer(at: Instant) -> Instant {
    Instant::now() + at.saturating_duration_since(now())
}
