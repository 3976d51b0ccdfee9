//! The clock of leases, which also runs while the machine is suspended.
//!
//! A store's clock runs on while this machine is suspended, but the clock of timers stops. On Linux, leases are therefore
//! measured by `CLOCK_BOOTTIME`. A virtual machine that its host pauses notices nothing: both clocks stop.

use tokio::time::Instant;

/// Returns the time by the clock of leases. Compare it with other times of this clock only.
#[cfg(all(target_os = "linux", any(feature = "host", feature = "redis", feature = "tokio-postgres")))]
pub(super) fn now() -> Instant {
    use std::sync::OnceLock;
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    /// The first time by both clocks. `None` if the process may not read the clock.
    static START: OnceLock<Option<(Instant, Duration)>> = OnceLock::new();

    let since_boot = || clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(Duration::from);
    match (START.get_or_init(|| Some((Instant::now(), since_boot()?))), since_boot()) {
        (Some((start, at_start)), Some(since_boot)) => *start + since_boot.saturating_sub(*at_start),
        _ => Instant::now(),
    }
}

/// Returns the time by the clock of leases.
#[cfg(not(all(target_os = "linux", any(feature = "host", feature = "redis", feature = "tokio-postgres"))))]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Returns when a time of this clock will be by the clock of timers, unless the machine is suspended.
pub(super) fn timer(at: Instant) -> Instant {
    Instant::now() + at.saturating_duration_since(now())
}
