//! Errors of services that panic where they are shown and where they are dropped, or whose sources have no end: the
//! supervisor outlives them.

use std::error::Error;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use onelane::background::{
    BackgroundService, Backoff, Every, HostPhase, Intensity, Overlap, Placement, Restart, RunContext, Service,
    ServiceResult, StopContext, periodic, service_fn,
};
use tokio::time::sleep;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::host::actor::{soon, threaded_host, virtual_host};
use support::waiting::{MS, until};

/// An error whose destructor panics, as long as it is armed.
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

/// A service whose errors, in `run` and in `stop`, are bombs.
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

/// An error that can't be shown.
#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("shown");
    }
}

impl Error for Unspeakable {}

/// An error that is its own source.
#[derive(Debug)]
struct Selfish;

impl fmt::Display for Selfish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("selfish")
    }
}

impl Error for Selfish {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self)
    }
}

/// An error with so many sources, of which each is in the one before, and with those of `last` at the end.
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

/// Takes no more than a page, so that what has no end fails instead of filling the memory.
#[derive(Default)]
struct Page(String);

impl Write for Page {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text;
        if self.0.len() < 4096 { Ok(()) } else { Err(fmt::Error) }
    }
}

fn page(shown: fmt::Arguments<'_>) -> String {
    let mut page = Page::default();
    page.write_fmt(shown).expect("it has an end");
    page.0
}

/// Shows all that is told.
struct Show;

impl<S: tracing::Subscriber> Layer<S> for Show {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Shown;
        impl tracing::field::Visit for Shown {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn fmt::Debug) {
                drop(format!("{value:?}"));
            }
        }
        event.record(&mut Shown);
    }
}

fn again_and_again(service: Service) -> Service {
    service.degradable().backoff(Backoff::new(MS)).intensity(Intensity::unlimited())
}

#[tokio::test]
async fn errors_whose_destructors_panic_do_not_take_the_supervisor_with_them() {
    for placement in [Placement::Shared, Placement::Thread] {
        let is_armed = Arc::new(AtomicBool::new(true));
        let service = again_and_again(Service::new(Bomber(is_armed.clone())).placement(placement));
        let host = threaded_host().service(service).build().unwrap();
        host.start().await.unwrap();
        until("it fails", || host.status().service("bomber").unwrap().restarts > 10).await;
        let report = host.shutdown().await;
        is_armed.store(false, Ordering::Relaxed);
        report.unwrap();
        assert_eq!(host.status().phase, HostPhase::Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn error_that_panics_where_it_is_shown_does_not_take_the_supervisor_with_it() {
    let _shown = tracing::subscriber::set_default(tracing_subscriber::registry().with(Show));
    let service = service_fn("actor", |_| async { Err(Unspeakable.into()) });
    let host = virtual_host().service(again_and_again(service)).build().unwrap();
    host.start().await.unwrap();
    soon("it fails", until("it fails", || host.status().service("actor").unwrap().restarts > 3)).await;
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_whose_error_panics_where_it_is_shown_has_ended() {
    let _shown = tracing::subscriber::set_default(tracing_subscriber::registry().with(Show));
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let calls = Arc::new(AtomicU64::new(0));
        let counter = calls.clone();
        let service = periodic("calls", Every::fixed_rate(MS).overlap(overlap).max_runs(3), move || {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Err(Unspeakable.into()) }
        });
        let host = virtual_host().service(service).build().unwrap();
        host.start().await.unwrap();
        sleep(MS * 100).await;
        let status = host.status();
        let service = status.service("calls").unwrap();
        assert!(service.is_ended(), "{overlap:?}: {:?}", service.state);
        assert_eq!((service.restarts, calls.load(Ordering::Relaxed)), (0, 3));
        assert_eq!(service.ticks().unwrap().failures, 3);
        host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn error_that_is_its_own_source_is_told_to_a_depth() {
    let selfish = || service_fn("actor", |_| async { Err(Selfish.into()) }).restart(Restart::Never);
    let host = virtual_host().service(selfish()).build().unwrap();
    let told = host.run_until(std::future::pending::<Result<(), fmt::Error>>()).await.unwrap_err();
    let chain = ["selfish"; 33].join(": ");
    let expected = format!("the service \"actor\" was given up: failed: {chain}: ...");
    assert_eq!(page(format_args!("{told:?}")), expected);

    let host = virtual_host().build().unwrap();
    let told = host.run_until(async { Err(Selfish) }).await.unwrap_err();
    let chain = ["selfish"; 32].join(": ");
    assert_eq!(page(format_args!("{told:?}")), format!("the server failed: {chain}: ..."));
}

#[tokio::test(start_paused = true)]
async fn sources_are_all_told_unless_they_are_too_many() {
    let told = async |error: Nested| {
        let host = virtual_host().build().unwrap();
        let error = host.run_until(async { Err(error) }).await.unwrap_err();
        page(format_args!("{error:?}"))
    };
    assert_eq!(told(Nested::new(2, None)).await, "the server failed: level 2: level 1: level 0");
    let all = told(Nested::new(31, None)).await;
    assert!(all.ends_with(": level 1: level 0"), "{all}");
    let too_many = told(Nested::new(32, None)).await;
    assert!(too_many.ends_with(": level 1: ..."), "{too_many}");
    // A circle, behind sources that have an end.
    let circle = told(Nested::new(3, Some(Selfish.into()))).await;
    assert!(
        circle.starts_with("the server failed: level 3: level 2: level 1: level 0: selfish: selfish: "),
        "{circle}"
    );
    assert!(circle.ends_with(": selfish: ..."), "{circle}");
}
