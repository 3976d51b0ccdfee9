//! [`ClockReading`], the two clocks that schedules use.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// One moment, read from both clocks: intervals use the monotonic clock, cron expressions the wall clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockReading {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

impl ClockReading {
    pub(super) fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// When a call is due, on the clock that its schedule uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DueTime {
    Monotonic(Instant),
    #[cfg_attr(not(feature = "cron"), expect(dead_code, reason = "only cron expressions use the wall clock"))]
    Wall(SystemTime),
}

impl DueTime {
    /// Converts the due time to the wall clock as it is set now. `None` if the clock cannot represent it.
    pub(super) fn to_wall(self, now: ClockReading) -> Option<SystemTime> {
        match self {
            Self::Monotonic(at) if at < now.instant => now.wall.checked_sub(now.instant - at),
            Self::Monotonic(at) => now.wall.checked_add(at - now.instant),
            Self::Wall(at) => Some(at),
        }
    }

    /// Returns how long the due time has passed, measured on its own clock, or 0 if it has not.
    pub(super) fn lateness(self, now: ClockReading) -> Duration {
        match self {
            Self::Monotonic(at) => now.instant.saturating_duration_since(at),
            Self::Wall(at) => now.wall.duration_since(at).unwrap_or_default(),
        }
    }
}
