//! [`TickContext`], the context of one call of a periodic service.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::ClockReading;
use super::schedule::DueCall;
use crate::background::context::RunContext;
use crate::background::control::{DropSignal, ServiceScope};
use crate::background::status::{ExitKind, TickStatus};
use crate::debug::impl_debug;

/// The context passed to each call of a [periodic](super::periodic()) service.
///
/// All clones refer to the same call. Pass them to helper functions and child tasks.
///
/// # Examples
///
/// ```
/// use onelane::background::{Every, ServiceResult, TickContext, periodic};
/// use std::time::Duration;
///
/// async fn sample(cx: TickContext) -> ServiceResult {
///     if cx.delay() > Duration::from_secs(1) {
///         return Err("this sample would be too late".into());
///     }
///     Ok(())
/// }
///
/// let samples = periodic("samples", Every::fixed_rate(Duration::from_secs(10)), sample);
/// assert_eq!(samples.name(), "samples");
/// ```
#[derive(Clone)]
pub struct TickContext {
    cx: RunContext,
    due: SystemTime,
    delay: Duration,
    /// When the call exceeds its timeout, if it has one.
    limit: Option<Instant>,
    number: u64,
    is_triggered: bool,
    last_exit: Option<ExitKind>,
    last_failure: Option<ExitKind>,
}

impl TickContext {
    /// Creates the context of a call that begins now. `status` counts it already.
    pub(super) fn new(
        cx: &RunContext,
        call: DueCall,
        now: ClockReading,
        status: &TickStatus,
        timeout: Option<Duration>,
    ) -> Self {
        Self {
            cx: cx.clone(),
            due: call.due.to_wall(now).unwrap_or(now.wall),
            delay: call.due.lateness(now),
            limit: timeout.and_then(|timeout| now.instant.checked_add(timeout)),
            number: status.runs,
            is_triggered: call.is_triggered,
            last_exit: status.last_exit.clone(),
            last_failure: status.last_failure.clone(),
        }
    }

    /// Returns the name of the service.
    #[must_use]
    pub fn name(&self) -> &str {
        self.cx.name()
    }

    /// Returns the number of this call, counted from 1, across all generations of the service.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns when this call was due, on the wall clock, without the [`jitter`](super::Every::jitter).
    ///
    /// For a cron expression, this is the time that the expression matches, so it is the same in each replica of a
    /// server. An interval is measured on the monotonic clock, and its due time is converted to the wall clock as the
    /// clock was set when the call began. If the call makes up for several due times, this is the latest of them. If
    /// only [`trigger_now`](crate::background::HostHandle::trigger_now) requested the call, this is the time of that
    /// request.
    #[must_use]
    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// Returns how long after its [due time](Self::due) this call began, which includes the
    /// [`jitter`](super::Every::jitter). It is measured on the clock of the schedule: the wall clock for a cron
    /// expression, and otherwise the monotonic clock.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Returns how much time is left until this call exceeds its [`tick_timeout`](super::Every::tick_timeout): zero
    /// once it has. `None` without a timeout. A blocking call passes it to what it waits for.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.saturating_duration_since(Instant::now()))
    }

    /// Returns `true` if only [`trigger_now`](crate::background::HostHandle::trigger_now) requested this call. A call
    /// that was due as well is a scheduled call.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.is_triggered
    }

    /// Returns the exit of the call that ended last before this call began, in any generation. `None` if no call had
    /// ended.
    #[must_use]
    pub fn last_exit(&self) -> Option<&ExitKind> {
        self.last_exit.as_ref()
    }

    /// Returns how the last failed call ended, as of when this call began. `None` if no call had failed.
    #[must_use]
    pub fn last_failure(&self) -> Option<&ExitKind> {
        self.last_failure.as_ref()
    }

    /// Returns where the code of the service runs.
    pub(super) fn scope(&self) -> &ServiceScope {
        self.cx.scope()
    }

    /// Returns what a thread holds while it runs this call.
    pub(super) fn drop_signal(&self) -> Option<Arc<DropSignal>> {
        self.cx.drop_signal()
    }

    /// Returns `true` if the service has to stop. The call then has
    /// [`stop_timeout`](super::super::Service::stop_timeout) to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.cx.is_stopping()
    }

    /// Waits until the service has to stop.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn stopping(&self) {
        self.cx.stopping().await;
    }

    /// Returns the token that is cancelled when the service has to stop: see [`RunContext::token`].
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        self.cx.token()
    }
}

impl_debug!(TickContext |this| { name: this.name(), number: this.number, due: this.due, is_triggered: this.is_triggered, .. });
