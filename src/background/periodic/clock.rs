//! [`ClockReading`], the two clocks that schedules use.

use std::time::SystemTime;

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

/// When the next call is due, on the clock that its schedule uses.
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
            Self::Monotonic(at) => now.wall.checked_add(at.saturating_duration_since(now.instant)),
            Self::Wall(at) => Some(at),
        }
    }
}
