//! Errors of services that panic where they are shown and where they are dropped: the supervisor outlives them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use onelane::background::{
    BackgroundService, Backoff, Every, HostPhase, Intensity, Overlap, Placement, RunContext, Service, ServiceResult,
    StopContext, periodic, service_fn,
};
use tokio::time::sleep;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::actor::{MS, soon, threaded_host, until, virtual_host};

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
