//! [`WaitTimer`], which bounds how long a caller waits for a run.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

pub(super) struct WaitTimer {
    started: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl WaitTimer {
    pub(super) fn start(timeout: Duration) -> Box<Self> {
        let started = Instant::now();
        // A deadline that an `Instant` cannot express is replaced by one a century away.
        let deadline = started.checked_add(timeout).unwrap_or_else(|| started + Duration::from_secs(3_155_760_000));
        Box::new(Self { started, sleep: Box::pin(sleep_until(deadline)) })
    }

    /// Completes with the time since the start.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        // Ignores the task's budget, since nothing but the timer bounds the wait.
        ready!(Pin::new(&mut coop::unconstrained(self.sleep.as_mut())).poll(cx));
        Poll::Ready(self.started.elapsed())
    }
}
