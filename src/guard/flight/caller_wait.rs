//! [`CallerWait`], the state that a caller keeps across the runs that it waits for.

use std::task::{Context, Poll};
use std::time::Duration;

use super::wait_timer::WaitTimer;

/// The time that a caller has waited, and the place of the caller among the waiters. A caller keeps both when it joins
/// the next run.
#[derive(Default)]
pub(crate) struct CallerWait {
    timer: Option<Box<WaitTimer>>,
    /// `true` once `max_waiters` has admitted this caller. From then on, the limit does not refuse the caller in later
    /// runs.
    pub(super) has_place: bool,
}

impl CallerWait {
    /// Completes with the time waited, once the caller has waited for `timeout`. The first call starts the timer.
    pub(super) fn poll_timer(&mut self, timeout: Duration, cx: &mut Context<'_>) -> Poll<Duration> {
        self.timer.get_or_insert_with(|| WaitTimer::start(timeout)).poll(cx)
    }
}
