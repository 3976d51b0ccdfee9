//! [`periodic`] and [`periodic_blocking`], and the service they create: it waits, and carries out what [`Schedule`]
//! decides.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::calls::{ActiveCalls, run_blocking_call, run_call};
use super::clock::ClockReading;
use super::every::Every;
use super::schedule::{Schedule, ScheduleStep};
use super::tick_context::TickContext;
use super::ticker::{CallRecord, Ticker};
use crate::background::context::RunContext;
use crate::background::service::{BackgroundService, ServiceResult};
use crate::background::spec::Service;
use crate::background::status::ExitKind;
use crate::random;

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
/// of a server makes its own calls. With a distributed [guard](Service::guard), only one replica makes calls. For a
/// loop with its own timing, [`service_fn`](super::super::service_fn) and [`RunContext::sleep`] are enough.
///
/// A call must not block: use [`periodic_blocking`] for that. A call that only awaits a task of a pool is dropped at
/// its [timeout](Every::tick_timeout), but the task continues, and the next call starts another one.
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
/// assert!(host.shutdown().await?.is_clean());
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
    let tick = Arc::new(tick);
    let call = move |cx, name, record| run_call(Arc::clone(&tick), cx, name, record);
    service(name, Ticker::new(every, false), call)
}

/// Creates a service that calls a blocking closure again and again, on a thread that it may block.
///
/// It is like [`periodic`], except that a call is in progress until it returns, whatever its
/// [timeout](Every::tick_timeout) is: a thread cannot be dropped. So there is at most one call at a time, and one that
/// hangs occupies one thread. [`Overlap::Queue`](super::Overlap::Queue) applies, and
/// [`Overlap::Allow`](super::Overlap::Allow) is rejected by the host's builder.
///
/// A call that exceeds its timeout is logged at that time, and has failed when it returns. A call that waits for
/// something passes [`TickContext::remaining`] to it, and checks [`TickContext::is_stopping`] between its steps.
///
/// The calls run on the blocking threads of the runtime on which the service is [placed](Service::placement).
///
/// # Cancel safety
///
/// When the service has to stop, a call in progress has [`stop_timeout`](Service::stop_timeout) to return. After that
/// the host leaves it behind: the report of the service [is not clean](super::super::ServiceReport::is_dropped). A
/// generation that follows a restart makes no call before the last one has returned.
///
/// # Panics
///
/// A panic in the closure is caught and counts as a failed call.
///
/// # Examples
///
/// ```
/// use onelane::background::{Every, ServiceHost, periodic_blocking};
/// use std::time::Duration;
///
/// let every = Every::secs(60).tick_timeout(Duration::from_secs(10));
/// let prune = periodic_blocking("prune", every, |cx| {
///     for file in ["a", "b"] {
///         if cx.is_stopping() {
///             break;
///         }
///         // delete the file
///         let _ = (file, cx.remaining());
///     }
///     Ok(())
/// });
/// let host = ServiceHost::builder().service(prune).build();
/// assert!(host.is_ok());
/// ```
pub fn periodic_blocking<F>(name: &str, every: Every, tick: F) -> Service
where
    F: Fn(TickContext) -> ServiceResult + Send + Sync + 'static,
{
    let tick = Arc::new(tick);
    let call = move |cx, name, record| run_blocking_call(Arc::clone(&tick), cx, name, record);
    service(name, Ticker::new(every, true), call)
}

fn service<C, W>(name: &str, ticker: Ticker, call: C) -> Service
where
    C: Fn(TickContext, Arc<str>, CallRecord) -> W + Send + Sync + 'static,
    W: Future<Output = ExitKind> + Send + 'static,
{
    let ticker = Arc::new(ticker);
    Service::new(PeriodicService { name: name.into(), ticker: Arc::clone(&ticker), call }).with_ticker(ticker)
}

struct PeriodicService<C> {
    name: Arc<str>,
    ticker: Arc<Ticker>,
    /// Makes one call.
    call: C,
}

impl<C, W> BackgroundService for PeriodicService<C>
where
    C: Fn(TickContext, Arc<str>, CallRecord) -> W + Send + Sync + 'static,
    W: Future<Output = ExitKind> + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        let ticker = &self.ticker;
        tokio::select! {
            biased;
            () = cx.stopping() => return Ok(()),
            () = ticker.idle() => {}
        }
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
                    calls.start(&cx, (self.call)(tick_cx, Arc::clone(&self.name), record));
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
