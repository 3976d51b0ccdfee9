//! [`Now`], the two clocks of a schedule.

use std::time::SystemTime;

use tokio::time::Instant;

/// One moment on both clocks: intervals go by the one that only goes forward, cron expressions by the one on the wall.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// When the next call is due, on the clock that it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    At(Instant),
    #[cfg_attr(not(feature = "croner"), expect(dead_code, reason = "only cron expressions go by the wall clock"))]
    OnTheWall(SystemTime),
}

impl Due {
    /// The same on the wall clock, as that stands now.
    pub(super) fn on_the_wall(self, now: Now) -> Option<SystemTime> {
        match self {
            Self::At(at) => now.wall.checked_add(at.saturating_duration_since(now.instant)),
            Self::OnTheWall(at) => Some(at),
        }
    }
}
