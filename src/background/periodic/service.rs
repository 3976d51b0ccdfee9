//! [`periodic`], and the service that it makes: it waits, and does what [`Schedule`] decides.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::call::call;
use super::calls::Calls;
use super::every::Every;
use super::now::Now;
use super::schedule::{Schedule, Step};
use super::ticker::Ticker;
use crate::background::context::RunContext;
use crate::background::service::{BackgroundService, ServiceResult};
use crate::background::spec::Service;
use crate::background::status::ExitKind;

/// A service that calls an async closure again and again: `repeat_every` of fastapi-utils, an interval or cron job of
/// APScheduler, within the server.
///
/// [`Every`] says when. Calls don't overlap unless [`Overlap::Allow`](super::Overlap::Allow) says so, and the next one comes
/// whatever became of the last: an error, a panic or a [timeout](Every::tick_timeout) is counted, logged, and seen in
/// [`ServiceStatus::ticks`](super::super::ServiceStatus::ticks). [`HostHandle::trigger_now`](super::super::HostHandle::trigger_now)
/// makes it call out of turn. All options of a [`Service`] apply, but for [`heartbeat`](Service::heartbeat), in whose place
/// there is [`tick_timeout`](Every::tick_timeout). With [`manual_ready`](Service::manual_ready) it is ready once a call has
/// succeeded: who comes [`after`](Service::after) it finds the cache filled.
///
/// The schedule lives in memory: a call that was due while the process was down does not happen, and each replica of a
/// server calls for itself. What is to run once in a cluster takes a lock in its closure, or a job queue. For a loop with a
/// rhythm of its own, [`service_fn`](super::super::service_fn) and [`RunContext::sleep`] do.
///
/// # Cancel safety
///
/// When the service has to stop, the wait for the next call ends at once, and a running call has
/// [`stop_timeout`](Service::stop_timeout) to end. Then it is dropped where it waits, and counts as failed, with
/// [`ExitKind::Aborted`].
///
/// # Panics
///
/// A panic of the closure ends in its call, which has failed.
///
/// # Examples
///
/// ```
/// use onelane::background::{Every, ServiceHost, periodic};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let gc = periodic("gc", Every::secs(60), || async {
///     // throw away what is old
///     Ok(())
/// });
/// let host = ServiceHost::builder().service(gc.stop_timeout(Duration::from_secs(20))).build()?;
/// host.start().await?;
/// # while host.status().service("gc").and_then(|gc| gc.ticks()).is_none_or(|ticks| ticks.last_exit.is_none()) {
/// #     tokio::task::yield_now().await;
/// # }
/// let ticks = host.status().service("gc").and_then(|gc| gc.ticks()).ok_or("it is periodic")?;
/// assert_eq!((ticks.runs, ticks.failures), (1, 0));
/// host.handle().trigger_now("gc")?;
/// host.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// At three in the morning, with the feature `croner`:
///
/// ```
/// # #[cfg(feature = "croner")] {
/// use onelane::background::{Every, periodic};
///
/// # fn service() -> Result<(), onelane::background::CronError> {
/// let report = periodic("report", Every::cron("0 3 * * *")?.time_zone("Europe/Berlin")?, || async { Ok(()) });
/// # Ok(())
/// # }
/// # assert_eq!(service(), Ok(()));
/// # }
/// ```
pub fn periodic<F, W>(name: &str, every: Every, tick: F) -> Service
where
    F: Fn() -> W + Send + Sync + 'static,
    W: Future<Output = ServiceResult> + Send + 'static,
{
    let ticker = Arc::new(Ticker::new(every));
    let service = Periodic { name: name.into(), ticker: Arc::clone(&ticker), tick: Arc::new(tick) };
    Service::new(service).ticking(ticker)
}

struct Periodic<F> {
    name: Arc<str>,
    ticker: Arc<Ticker>,
    tick: Arc<F>,
}

impl<F, W> BackgroundService for Periodic<F>
where
    F: Fn() -> W + Send + Sync + 'static,
    W: Future<Output = ServiceResult> + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        let ticker = &self.ticker;
        let mut schedule =
            Schedule::new(&ticker.every, ticker.begun(), Now::read(), crate::background::random::fraction);
        let mut calls = Calls::new(ticker.every.overlap);
        let mut timer = pin!(sleep_until(Instant::now()));
        let _planned = Planned(ticker);

        while !cx.is_stopping() {
            if ticker.take_trigger() {
                schedule.trigger();
            }
            let step = schedule.next(Now::read());
            ticker.plan(schedule.next_due(), schedule.take_skipped());
            let wake_at = match step {
                Step::Call => {
                    calls.begin(&cx, call(Arc::clone(&self.tick), Arc::clone(&self.name), ticker.begin()));
                    continue;
                }
                Step::Done => {
                    ticker.begin_anew();
                    return Ok(());
                }
                Step::Wait(wake_at) => wake_at,
            };
            if let Some(wake_at) = wake_at.filter(|wake_at| *wake_at != timer.deadline()) {
                timer.as_mut().reset(wake_at);
            }
            tokio::select! {
                biased;
                () = cx.stopping() => {}
                exit = calls.ended() => {
                    if !exit.is_failure() {
                        cx.ready();
                    }
                    if let Some(failures) = schedule.ended(Now::read(), exit.is_failure()) {
                        return Err(Box::new(TooManyFailures { failures, last: exit }));
                    }
                    // The turn of others: where a call takes its interval without awaiting, the next one is due already.
                    yield_now().await;
                }
                () = ticker.triggered() => {}
                () = timer.as_mut(), if wake_at.is_some() => {}
            }
        }
        ticker.plan(None, 0);
        for _ in 0..schedule.running() {
            calls.ended().await;
        }
        Ok(())
    }
}

/// Once it is dropped, nothing is planned any more.
struct Planned<'a>(&'a Ticker);

impl Drop for Planned<'_> {
    fn drop(&mut self) {
        self.0.plan(None, 0);
    }
}

/// With what a generation ends after `give_up_after`.
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
            // It is the source.
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
