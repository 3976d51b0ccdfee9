//! [`CallerWait`], what a caller keeps while it waits for one run after another.

use std::task::{Context, Poll};
use std::time::Duration;

use super::wait_timer::WaitTimer;

/// The time that a caller has waited, and its place. A caller keeps both if it joins another run.
#[derive(Default)]
pub(crate) struct CallerWait {
    timer: Option<Box<WaitTimer>>,
    /// `true` if `max_waiters` once admitted this caller. Callers that have arrived since then do not displace it.
    pub(super) has_place: bool,
}

impl CallerWait {
    /// Completes with the time waited, once it is `timeout`. The first call starts the timer.
    pub(super) fn poll_timer(&mut self, timeout: Duration, cx: &mut Context<'_>) -> Poll<Duration> {
        self.timer.get_or_insert_with(|| WaitTimer::start(timeout)).poll(cx)
    }
}
