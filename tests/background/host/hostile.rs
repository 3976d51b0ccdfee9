//! Tests with hostile errors: they panic when they are displayed or dropped, or have endless sources. The supervisor
//! survives all of them.

use std::error::Error;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Wake, Waker};

use onelane::background::{
    BackgroundService, Backoff, Every, HostError, HostPhase, Intensity, Overlap, Placement, Restart, RunContext,
    Service, ServiceResult, StopContext, periodic, service_fn,
};
use tokio::time::sleep;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::host::actor::{soon, threaded_host, virtual_host};
use support::waiting::{MS, until};

/// An error whose destructor panics while it is armed.
#[derive(Debug)]
struct Bomb(Arc<AtomicBool>);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.0.load(Ordering::Relaxed), "dropped");
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl Error for Bomb {}

/// A service whose `run` and `stop` return bombs.
struct Bomber(Arc<AtomicBool>);

impl BackgroundService for Bomber {
    fn name(&self) -> &str {
        "bomber"
    }

    async fn run(&self, _: RunContext) -> ServiceResult {
        Err(Bomb(self.0.clone()).into())
    }

    async fn stop(&self, _: &StopContext) -> ServiceResult {
        Err(Bomb(self.0.clone()).into())
    }
}

impl Drop for Bomber {
    fn drop(&mut self) {
        assert!(!self.0.load(Ordering::Relaxed), "dropped");
    }
}

/// An error whose `Display` panics.
#[derive(Debug)]
struct PanicsOnDisplay;

impl fmt::Display for PanicsOnDisplay {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("displayed");
    }
}

impl Error for PanicsOnDisplay {}

/// An error that is its own source.
#[derive(Debug)]
struct SelfSourced;

impl fmt::Display for SelfSourced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("selfish")
    }
}

impl Error for SelfSourced {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self)
    }
}

/// An error with a chain of sources. `last`, if any, is at the end of the chain.
#[derive(Debug)]
struct Nested(u32, Option<Box<dyn Error + Send + Sync>>);

impl Nested {
    fn new(sources: u32, last: Option<Box<dyn Error + Send + Sync>>) -> Self {
        (0..sources).fold(Self(0, last), |inner, depth| Self(depth + 1, Some(inner.into())))
    }
}

impl fmt::Display for Nested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.0)
    }
}

impl Error for Nested {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|error| error as _)
    }
}

/// Accepts at most one page of text, so that endless output fails instead of filling the memory.
#[derive(Default)]
struct Page(String);

impl Write for Page {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text;
        if self.0.len() < 4096 { Ok(()) } else { Err(fmt::Error) }
    }
}

fn to_page(text: fmt::Arguments<'_>) -> String {
    let mut page = Page::default();
    page.write_fmt(text).expect("the text fits on a page");
    page.0
}

/// Formats the fields of every event.
struct FormatFields;

impl<S: tracing::Subscriber> Layer<S> for FormatFields {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Format;
        impl tracing::field::Visit for Format {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn fmt::Debug) {
                drop(format!("{value:?}"));
            }
        }
        event.record(&mut Format);
    }
}

fn restarts_forever(service: Service) -> Service {
    service.degradable().backoff(Backoff::new(MS)).intensity(Intensity::unlimited())
}

#[tokio::test]
async fn supervisor_survives_errors_whose_destructors_panic() {
    for placement in [Placement::Shared, Placement::Thread] {
        let is_armed = Arc::new(AtomicBool::new(true));
        let service = restarts_forever(Service::new(Bomber(is_armed.clone())).placement(placement));
        let host = threaded_host().service(service).build().unwrap();
        host.start().await.unwrap();
        until("the service restarts", || host.status().service("bomber").unwrap().restarts() > 10).await;
        let report = host.shutdown().await;
        is_armed.store(false, Ordering::Relaxed);
        let _ = report.unwrap();
        assert_eq!(host.status().phase(), HostPhase::Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn supervisor_survives_an_error_that_panics_on_display() {
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(FormatFields));
    let service = service_fn("actor", |_| async { Err(PanicsOnDisplay.into()) });
    let host = virtual_host().service(restarts_forever(service)).build().unwrap();
    host.start().await.unwrap();
    soon("the restarts", until("the service restarts", || host.status().service("actor").unwrap().restarts() > 3))
        .await;
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn periodic_call_ends_when_its_error_panics_on_display() {
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(FormatFields));
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let calls = Arc::new(AtomicU64::new(0));
        let counter = calls.clone();
        let service = periodic("calls", Every::fixed_rate(MS).overlap(overlap).max_runs(3), move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Err(PanicsOnDisplay.into()) }
        });
        let host = virtual_host().service(service).build().unwrap();
        host.start().await.unwrap();
        sleep(MS * 100).await;
        let status = host.status();
        let service = status.service("calls").unwrap();
        assert!(service.is_ended(), "{overlap:?}: {:?}", service.state());
        assert_eq!((service.restarts(), calls.load(Ordering::Relaxed)), (0, 3));
        assert_eq!(service.ticks().unwrap().failures(), 3);
        let _ = host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn error_that_is_its_own_source_is_written_to_a_limited_depth() {
    let service = || service_fn("actor", |_| async { Err(SelfSourced.into()) }).restart(Restart::Never);
    let host = virtual_host().service(service()).build().unwrap();
    let error = host.run_until(std::future::pending::<Result<(), fmt::Error>>()).await.unwrap_err();
    let chain = ["selfish"; 33].join(": ");
    let expected = format!("the host gave up on the service \"actor\": failed: {chain}: ...");
    assert_eq!(to_page(format_args!("{error:?}")), expected);

    let host = virtual_host().build().unwrap();
    let error = host.run_until(async { Err(SelfSourced) }).await.unwrap_err();
    let chain = ["selfish"; 32].join(": ");
    assert_eq!(to_page(format_args!("{error:?}")), format!("the server failed: {chain}: ..."));
}

#[tokio::test(start_paused = true)]
async fn all_sources_are_written_up_to_the_limit() {
    let message = async |error: Nested| {
        let host = virtual_host().build().unwrap();
        let error = host.run_until(async { Err(error) }).await.unwrap_err();
        to_page(format_args!("{error:?}"))
    };
    assert_eq!(message(Nested::new(2, None)).await, "the server failed: level 2: level 1: level 0");
    let all = message(Nested::new(31, None)).await;
    assert!(all.ends_with(": level 1: level 0"), "{all}");
    let too_many = message(Nested::new(32, None)).await;
    assert!(too_many.ends_with(": level 1: ..."), "{too_many}");
    // A cycle behind sources that end.
    let cycle = message(Nested::new(3, Some(SelfSourced.into()))).await;
    assert!(cycle.starts_with("the server failed: level 3: level 2: level 1: level 0: selfish: selfish: "), "{cycle}");
    assert!(cycle.ends_with(": selfish: ..."), "{cycle}");
}

/// A waker that panics.
struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("woken");
    }
}

#[tokio::test]
async fn waker_of_the_draining_token_may_panic() {
    let waker = Waker::from(Arc::new(PanickingWaker));
    let host = threaded_host().build().unwrap();
    host.start().await.unwrap();
    let mut draining = Box::pin(host.handle().draining().cancelled_owned());
    assert!(draining.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    assert!(soon("the stop", host.shutdown()).await.unwrap().is_clean());
}

#[test]
fn host_on_a_runtime_without_timers_is_not_ready_and_drains() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let host = virtual_host().build().unwrap();
    let error = runtime.block_on(host.start()).unwrap_err();
    assert!(matches!(error, HostError::SupervisorGone), "{error:?}");
    assert!(host.handle().draining().is_cancelled());
    assert_eq!(host.status().phase(), HostPhase::Stopping);
}
