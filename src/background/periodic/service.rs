//! [`periodic`], and the service it creates: the service waits, and carries out what [`Schedule`] decides.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::calls::{ActiveCalls, run_call};
use super::clock::ClockReading;
use super::every::Every;
use super::schedule::{Schedule, ScheduleStep};
use super::tick_context::TickContext;
use super::ticker::Ticker;
use crate::background::context::RunContext;
use crate::background::random;
use crate::background::service::{BackgroundService, ServiceResult};
use crate::background::spec::Service;
use crate::background::status::ExitKind;

/// Creates a service that calls an async closure again and again.
///
/// The function corresponds to `repeat_every` in fastapi-utils, and to an interval or cron job in APScheduler, inside
/// the server.
///
/// [`Every`] sets the schedule, and each call gets a [`TickContext`]. Calls don't overlap unless
/// [`Overlap::Allow`](super::Overlap::Allow) is set. The next call takes place however the last one ended: an error, a
/// panic or a [timeout](Every::tick_timeout) is counted, logged, and shown in
/// [`ServiceStatus::ticks`](super::super::ServiceStatus::ticks).
/// [`HostHandle::trigger_now`](super::super::HostHandle::trigger_now) requests a call outside the schedule.
///
/// All options of a [`Service`] apply, except [`heartbeat`](Service::heartbeat): use
/// [`tick_timeout`](Every::tick_timeout) instead. With [`manual_ready`](Service::manual_ready) the service becomes
/// ready once a call has succeeded, so a service that starts [`after`](Service::after) it finds, for example, a filled
/// cache.
///
/// The schedule lives in memory. A call that was due while the process was down does not take place, and each replica
/// of a server makes its own calls. For work that must run once per cluster, take a distributed lock in the closure, or
/// use a job queue. For a loop with its own timing, [`service_fn`](super::super::service_fn) and [`RunContext::sleep`]
/// are enough.
///
/// # Cancel safety
///
/// When the service has to stop, the wait for the next call ends immediately, and the [`TickContext`] of a running call
/// reports the stop. That call has [`stop_timeout`](Service::stop_timeout) to end. After that the call is dropped at
/// the await point where it waits, and counts as failed with [`ExitKind::Aborted`].
///
/// # Panics
///
/// A panic in the closure is caught and counts as a failed call.
///
/// # Examples
///
/// ```
/// use onelane::background::{Every, ServiceHost, periodic};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let gc = periodic("gc", Every::secs(60), |cx| async move {
///     // `cx` is the context of this call: when it was due, and if the service has to stop.
///     while !cx.is_stopping() {
///         // delete an old file
/// #       break;
///     }
///     Ok(())
/// });
/// let host = ServiceHost::builder().service(gc.stop_timeout(Duration::from_secs(20))).build()?;
/// host.start().await?;
/// # while host.status().service("gc").and_then(|gc| gc.ticks()).is_none_or(|ticks| ticks.last_exit().is_none()) {
/// #     tokio::task::yield_now().await;
/// # }
/// let ticks = host.status().service("gc").and_then(|gc| gc.ticks()).ok_or("not periodic")?;
/// assert_eq!((ticks.runs(), ticks.failures()), (1, 0));
/// host.handle().trigger_now("gc")?;
/// host.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// At 3 a.m., with the feature `cron`:
///
/// ```
/// # #[cfg(feature = "cron")] {
/// use onelane::background::{Every, periodic};
///
/// # fn service() -> Result<(), onelane::background::CronError> {
/// let report = periodic("report", Every::cron("0 3 * * *")?.time_zone("Europe/Berlin")?, |cx| async move {
///     // However late the call begins, `cx.due()` is 3 a.m.
///     let _day = cx.due();
///     Ok(())
/// });
/// # Ok(())
/// # }
/// # assert_eq!(service(), Ok(()));
/// # }
/// ```
pub fn periodic<F, W>(name: &str, every: Every, tick: F) -> Service
where
    F: Fn(TickContext) -> W + Send + Sync + 'static,
    W: Future<Output = ServiceResult> + Send + 'static,
{
    let ticker = Arc::new(Ticker::new(every));
    let service = PeriodicService { name: name.into(), ticker: Arc::clone(&ticker), tick: Arc::new(tick) };
    Service::new(service).with_ticker(ticker)
}

struct PeriodicService<F> {
    name: Arc<str>,
    ticker: Arc<Ticker>,
    tick: Arc<F>,
}

impl<F, W> BackgroundService for PeriodicService<F>
where
    F: Fn(TickContext) -> W + Send + Sync + 'static,
    W: Future<Output = ServiceResult> + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        let ticker = &self.ticker;
        let mut schedule = Schedule::new(&ticker.every, ticker.used_runs(), ClockReading::now(), random::fraction);
        let mut calls = ActiveCalls::new(ticker.every.overlap);
        let mut timer = pin!(sleep_until(Instant::now()));
        let _clear = ClearNextRun(ticker);

        while !cx.is_stopping() {
            if let Some(at) = ticker.take_trigger() {
                schedule.trigger(at);
            }
            let step = schedule.next(ClockReading::now());
            ticker.update(schedule.next_due(), schedule.take_skipped());
            let wake_at = match step {
                ScheduleStep::Call(call) => {
                    let (record, tick_cx) = ticker.start_call(&cx, call);
                    calls.start(&cx, run_call(Arc::clone(&self.tick), tick_cx, Arc::clone(&self.name), record));
                    continue;
                }
                ScheduleStep::Done => {
                    ticker.reset_used_runs();
                    return Ok(());
                }
                ScheduleStep::Wait(wake_at) => wake_at,
            };
            if let Some(wake_at) = wake_at.filter(|wake_at| *wake_at != timer.deadline()) {
                timer.as_mut().reset(wake_at);
            }
            tokio::select! {
                biased;
                () = cx.stopping() => {}
                exit = calls.next_exit() => {
                    if !exit.is_failure() {
                        cx.ready();
                    }
                    if let Some(failures) = schedule.call_ended(ClockReading::now(), exit.is_failure()) {
                        return Err(Box::new(TooManyFailures { failures, last: exit }));
                    }
                    // A call that takes a whole interval without awaiting makes the next one due immediately: other
                    // tasks must run in between.
                    yield_now().await;
                }
                () = ticker.triggered() => {}
                () = timer.as_mut(), if wake_at.is_some() => {}
            }
        }
        ticker.update(None, 0);
        for _ in 0..schedule.running() {
            calls.next_exit().await;
        }
        Ok(())
    }
}

/// Clears the next run in the status when it is dropped: from then on no call is scheduled.
struct ClearNextRun<'a>(&'a Ticker);

impl Drop for ClearNextRun<'_> {
    fn drop(&mut self) {
        self.0.update(None, 0);
    }
}

/// The error of a generation that ended because of `give_up_after`.
#[derive(Debug)]
struct TooManyFailures {
    failures: u64,
    last: ExitKind,
}

impl fmt::Display for TooManyFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failures, calls) = (self.failures, if self.failures == 1 { "call" } else { "calls in a row" });
        write!(f, "{failures} {calls} failed")?;
        match self.last {
            // The error is available as the source.
            ExitKind::Failed(_) => Ok(()),
            _ => write!(f, ", the last: {}", self.last),
        }
    }
}

impl Error for TooManyFailures {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.last {
            ExitKind::Failed(error) => Some(&**error),
            _ => None,
        }
    }
}
