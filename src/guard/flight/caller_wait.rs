//! [`CallerWait`], the state that a caller keeps across the runs that it waits for.

#[cfg(any(feature = "tower", feature = "actix-web"))]
use std::hash::Hash;
#[cfg(any(feature = "tower", feature = "actix-web"))]
use std::mem;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(any(feature = "tower", feature = "actix-web"))]
use super::shared_run::SharedRun;
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

#[cfg(any(feature = "tower", feature = "actix-web"))]
impl<K, T, E, W> SharedRun<'_, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// Continues the wait of a caller that has already waited for an earlier run.
    pub(crate) fn continuing(mut self, wait: CallerWait) -> Self {
        self.wait = wait;
        self
    }

    /// Takes the caller's wait, so that the caller can continue the wait with the next run.
    pub(crate) fn take_wait(&mut self) -> CallerWait {
        mem::take(&mut self.wait)
    }
}
